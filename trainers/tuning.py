"""A job from its files to its manifest, on one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, set_seed
from transformers.utils import GENERATION_CONFIG_NAME

from trainers import artifacts, checkpoints, precompute, ranks
from trainers.arguments import arguments
from trainers.collate import MicroBatches
from trainers.data import records
from trainers.data.encoder import Encoder
from trainers.data.examples import Example
from trainers.data.tokens import Examples, tokenise
from trainers.errors import Diverged
from trainers.events import Progress
from trainers.learner import Learner
from trainers.objectives import Objective
from trainers.offline import OfflineTrainer, Run
from trainers.peft_kinds import Full
from trainers.policy import base_of, load_policy, load_start
from trainers.probe import Chosen, choose
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.spec import Assignment
from trainers.start import AdapterOff, FrozenStart
from trainers.stopping import StopSignal
from trainers.token_masks import token_masks


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

    Raises Unusable or BadLine, with a sentence for the job's owner, where the input is at fault.
    """
    objective, seed = assignment.spec.method.objective, assignment.spec.seed
    encoder, limit = _encoder(assignment, objective)
    training = _examples(assignment.training_path, objective, encoder, limit, "training_file")
    shown = training
    if assignment.validation_path is not None:
        shown = _examples(assignment.validation_path, objective, encoder, limit, "validation_file")
    set_seed(seed)
    learner, chosen = _learner(assignment)
    ranks.stand_alone()
    me = ranks.join(torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu"))
    data = MicroBatches(training.rows, chosen.layout)
    run = _run(assignment, out, progress, stop, me, data, parts.schedule)
    progress.say(_opening(run, training, chosen), _packing(run, chosen) | training.data())
    if objective.batch_coupled():
        progress.say(_coupling(run.schedule), level="warn")
    prepared = precompute.prepare(learner, data, assignment, encoder.tokenizer, out, me)
    progress.say(prepared.sentence, prepared.data)
    run = replace(run, data=replace(data, store=prepared.store))
    trainer = parts.trainer(learner, _arguments(run, learner), run)
    if not me.sum(torch.tensor(int(stop.requested), device=me.device)).item():
        _train(trainer)
    ending = Ending(trainer.state.global_step, trainer.state.global_step < run.schedule.steps)
    if not ending.stopped:
        _publish(trainer, training, shown.rows, encoder)
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


def _examples(path: Path, objective: Objective, encoder: Encoder, limit: int, param: str) -> Examples:
    found = records.read(path, objective.data, objective.needs().columns)
    return tokenise(found, encoder, limit=limit, data=objective.data, param=param)


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
    schedule = planned(
        tokens=tuple(data.layout.tokens(example) for example in data.examples),
        weights=tuple(example.weight for example in data.examples),
        token_weights=tuple(example.token_weight for example in data.examples),
        epochs=objective.n_epochs,
        batch_size=objective.batch_size,
        micro_batch_size=objective.micro_batch_size,
        micro_batch_tokens=objective.micro_batch_tokens,
        ranks=me.world,
        rank=me.rank,
        seed=assignment.spec.seed,
    )
    saves = checkpoints.planned(schedule.steps, objective.checkpoints)
    return Run(assignment, out, progress, stop, me, schedule, data, saves)


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
    return f"The loss compares the pairs of {share}: micro_batch_size and processes change what is learned"


def _train(trainer: OfflineTrainer) -> None:
    found = checkpoints.saved(trainer.run.out)
    if not found:
        trainer.train()
        return
    trainer.run.progress.say(f"Going on from the checkpoint at step {found[-1].step_number}")
    trainer.train(resume_from_checkpoint=str(trainer.run.out / found[-1].path))


def _publish(trainer: OfflineTrainer, training: Examples, shown: Iterable[Example], encoder: Encoder) -> None:
    run = trainer.run
    run.progress.say("Publishing")
    size = run.objective.micro_batch_size
    masks = token_masks(trainer.model, list(shown), encoder, micro_batch_size=size, device=run.ranks.device)
    learned = artifacts.Learned.of(trainer.model, run.assignment, keep=run.ranks.speaks)
    if not learned.is_finite():
        raise Diverged(run.schedule.steps)
    if not run.ranks.speaks:
        return
    artifacts.publish(
        run.out,
        run.assignment,
        learned,
        masks,
        history=trainer.state.log_history,
        checkpoints=checkpoints.saved(run.out),
        trained_tokens=run.schedule.epochs * sum(row.tokens for row in training.rows),
    )
    precompute.discard(run.out)
    if run.assignment.spec.served_as == artifacts.MERGED:
        checkpoints.forget_states(run.out)
