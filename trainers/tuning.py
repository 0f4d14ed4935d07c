"""A job from its files to its manifest, on one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, set_seed
from transformers.utils import GENERATION_CONFIG_NAME

from trainers import checkpoints, evaluation, precompute, ranks
from trainers.arguments import arguments
from trainers.collate import MicroBatches
from trainers.data import records
from trainers.data.encoder import Encoder
from trainers.data.examples import Example
from trainers.data.lines import BadLine
from trainers.data.tokens import Examples, tokenise
from trainers.errors import Unusable
from trainers.events import Progress
from trainers.learner import Learner
from trainers.manifest import Checkpoint
from trainers.objectives import Objective
from trainers.offline import OfflineTrainer
from trainers.peft_kinds import Full
from trainers.policy import base_of, load_policy, load_start
from trainers.probe import Chosen, choose
from trainers.publishing import publish
from trainers.ranks import Ranks
from trainers.run import Run, Validation
from trainers.schedule import Schedule
from trainers.spec import Assignment
from trainers.start import AdapterOff, FrozenStart
from trainers.stopping import StopSignal


@dataclass(frozen=True)
class Parts:
    """What a benchmark puts in the place of a job's own: another order of the pairs, a trainer that keeps time."""

    schedule: Callable[..., Schedule] = Schedule
    trainer: type[OfflineTrainer] = OfflineTrainer


#: a job's own
OWN = Parts()


@dataclass(frozen=True)
class Ending:
    """How a rank's part ended: after which step, and whether it was asked to stop."""

    step: int
    stopped: bool


def tune(assignment: Assignment, out: Path, progress: Progress, stop: StopSignal, parts: Parts = OWN) -> Ending:
    """Train and publish; the newest checkpoint in `out` is gone on from.

    Raises Unusable, with a sentence for the job's owner, where the input is at fault.
    """
    objective, seed = assignment.spec.method.objective, assignment.spec.seed
    encoder, limit = _encoder(assignment, objective)
    training = _examples("training_file", assignment.training_path, objective, encoder, limit)
    held_out = None
    if assignment.validation_path is not None:
        held_out = _examples("validation_file", assignment.validation_path, objective, encoder, limit)
    set_seed(seed)
    learner, chosen = _learner(assignment)
    ranks.stand_alone()
    me = ranks.join(torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu"))
    data = MicroBatches(training.rows, chosen.layout)
    run = _with_validation(_run(assignment, out, progress, stop, me, data, parts.schedule), held_out)
    progress.say(_opening(run, training, chosen), _packing(run, chosen) | training.data())
    if objective.batch_coupled():
        progress.say(_coupling(run.schedule), level="warn")
    run = _with_references(run, learner, encoder)
    ending = _conduct(parts.trainer(learner, _arguments(run, learner), run), (held_out or training).rows, encoder)
    me.part()
    return ending


def _learner(assignment: Assignment) -> tuple[Learner, Chosen]:
    objective = assignment.spec.method.objective
    dtype = _dtype(objective)
    policy = load_policy(assignment, dtype)
    chosen = choose(base_of(policy))
    whole = isinstance(assignment.spec.peft, Full)
    start = FrozenStart(policy, lambda: load_start(assignment, dtype)) if whole else AdapterOff(policy)
    return Learner(policy, objective, chosen.layout, start), chosen


def _conduct(trainer: OfflineTrainer, shown: Iterable[Example], encoder: Encoder) -> Ending:
    """Train and publish, as far as nobody asks to stop."""
    run, found = trainer.run, checkpoints.saved(trainer.run.out)
    if run.ranks.any(run.stop.requested):
        return Ending(found[-1].step_number if found else 0, stopped=True)
    _train(trainer, found)
    if trainer.is_complete:
        publish(trainer, shown, encoder)
    return Ending(trainer.state.global_step, stopped=not trainer.is_complete)


def _encoder(assignment: Assignment, objective: Objective) -> tuple[Encoder, int]:
    config = AutoConfig.from_pretrained(assignment.model_path, local_files_only=True).get_text_config()
    tokenizer = AutoTokenizer.from_pretrained(assignment.model_path, local_files_only=True)
    limit = min(objective.max_length, getattr(config, "max_position_embeddings", None) or objective.max_length)
    return Encoder(tokenizer, config.vocab_size, _stops(assignment.model_path)), limit


def _stops(model: Path) -> frozenset[int]:
    """The ids at which engines end a generation, as the model's folder says."""
    if not (model / GENERATION_CONFIG_NAME).exists():
        return frozenset()
    ends = GenerationConfig.from_pretrained(model, local_files_only=True).eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _examples(param: str, path: Path, objective: Objective, encoder: Encoder, limit: int) -> Examples:
    """What the file of this field of the spec holds; a bad line is refused in the field's name."""
    found = records.read(path, objective.data, objective.needs().columns)
    try:
        return tokenise(found, encoder, limit=limit, data=objective.data, param=param)
    except BadLine as bad:
        raise Unusable(str(bad), code="invalid_line", param=param) from bad


def _dtype(objective: Objective) -> torch.dtype:
    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    bf16 = native if objective.precision == "auto" else objective.precision == "bf16"
    return torch.bfloat16 if bf16 else torch.float32


def _run(
    assignment: Assignment,
    out: Path,
    progress: Progress,
    stop: StopSignal,
    me: Ranks,
    data: MicroBatches,
    planned: Callable[..., Schedule],
) -> Run:
    objective = assignment.spec.method.objective
    schedule = _schedule(data, objective.n_epochs, assignment, me, planned)
    saves = checkpoints.planned(schedule.steps, objective.checkpoints)
    return Run(assignment, out, progress, stop, me, schedule, data, saves)


def _schedule(
    data: MicroBatches, epochs: int, assignment: Assignment, me: Ranks, planned: Callable[..., Schedule] = Schedule
) -> Schedule:
    objective = assignment.spec.method.objective
    return planned(
        tokens=tuple(data.layout.tokens(example) for example in data.examples),
        weights=tuple(example.weight for example in data.examples),
        token_weights=tuple(example.token_weight for example in data.examples),
        epochs=epochs,
        batch_size=objective.batch_size,
        micro_batch_size=objective.micro_batch_size,
        micro_batch_tokens=objective.micro_batch_tokens,
        ranks=me.world,
        rank=me.rank,
        seed=assignment.spec.seed,
    )


def _with_validation(run: Run, held_out: Examples | None) -> Run:
    """The run with what it evaluates between steps, where its job names a validation file."""
    if held_out is None:
        return run
    run.progress.say(f"Validating on {held_out.describe()}")
    data = MicroBatches(held_out.rows, run.data.layout)
    steps = evaluation.planned(run.schedule.steps, run.saves, run.objective.eval_steps)
    return replace(run, validation=Validation(data, _schedule(data, 1, run.assignment, run.ranks), steps))


def _with_references(run: Run, learner: Learner, encoder: Encoder) -> Run:
    """The run with the reference's states of its files, where they are kept."""
    files = {"training_file": run.data}
    if run.validation is not None:
        files["validation_file"] = run.validation.data
    files = precompute.prepare(learner, files, run, encoder.tokenizer)
    held_out = replace(run.validation, data=files["validation_file"]) if run.validation is not None else None
    return replace(run, data=files["training_file"], validation=held_out)


def _arguments(run: Run, learner: Learner) -> Any:
    gpu, dtype = run.ranks.device.type == "cuda", base_of(learner.policy).dtype
    return arguments(run.assignment.spec, run.schedule, learner, out=run.out, dtype=dtype, gpu=gpu)


def _opening(run: Run, training: Examples, chosen: Chosen) -> str:
    rate = run.assignment.spec.learning_rate()
    passes = "1 epoch" if run.schedule.epochs == 1 else f"{run.schedule.epochs} epochs"
    steps = f"{run.schedule.steps} steps, {passes}, {run.ranks.world} processes"
    return f"Training on {training.describe()} at learning rate {rate:g}: {steps}, {chosen.describe()}"


def _packing(run: Run, chosen: Chosen) -> dict[str, Any]:
    """How pairs become rows, for those who read events by program."""
    schedule = run.schedule
    data = {"layout": chosen.layout.name, "layout_reason": chosen.why, "epoch_tokens": sum(schedule.tokens)}
    return data | {"rows_per_step": schedule.accumulation * schedule.ranks}


def _coupling(schedule: Schedule) -> str:
    share = f"each forward pass (at most {schedule.micro_batch_size} of {schedule.batch_size})"
    return f"The loss compares the examples of {share}: micro_batch_size and processes change what is learned"


def _train(trainer: OfflineTrainer, found: Sequence[Checkpoint]) -> None:
    if not found:
        trainer.train()
        return
    trainer.run.progress.say(f"Going on from the checkpoint at step {found[-1].step_number}")
    trainer.go_on(found[-1])
