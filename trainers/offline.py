"""Training on a fixed set of examples: transformers.Trainer and DeepSpeed under one rule of normalisation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from itertools import islice
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from typing_extensions import override

from trainers import checkpoints, dead_masks, drift, early_stopping
from trainers.arguments import parameter_groups
from trainers.artifacts import MERGED, Learned
from trainers.early_stopping import VALID_LOSS
from trainers.errors import Diverged
from trainers.evaluation import Evaluations
from trainers.learner import PER_EXAMPLE, PER_TOKEN, Learner
from trainers.manifest import Checkpoint
from trainers.means import Means
from trainers.run import Run


class OfflineTrainer(Trainer):  # type: ignore[misc]
    """The loss and its gradient are means over a step's examples and tokens, whoever computes which."""

    loss_is_scaled_for_ga = True

    def __init__(self, learner: Learner, args: TrainingArguments, run: Run) -> None:
        self.evaluations = Evaluations(self, run)
        callbacks = [_Conduct(run, self), self.evaluations]
        super().__init__(model=learner, args=args, train_dataset=run.data, callbacks=callbacks)
        self.pop_callback("PrinterCallback")
        self.run = run
        self.means = Means(run.ranks.device)
        self.started: tuple[float, int] = (time.monotonic(), 0)
        self.ends_after: int | None = None  #: micro-batches, where an earlier launch has ended the training
        self.finite = torch.ones((), dtype=torch.bool, device=run.ranks.device)

    def get_train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The schedule's micro-batches of this rank, in order."""
        batches = list(islice(self.run.schedule, self.ends_after)) if self.ends_after else self.run.schedule
        return DataLoader(self.run.data, batch_sampler=batches, collate_fn=_only)

    @override
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; the objective's own weights decay by their own rule, biases and norms not at all."""
        if self.optimizer is not None:
            return self.optimizer
        self.optimizer: torch.optim.Optimizer | None = torch.optim.AdamW(
            parameter_groups(self.model, self.run.objective), lr=self.args.learning_rate
        )
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: Mapping[str, Any], *_: Any, **__: Any) -> Tensor:
        """Σ loss over the micro-batch's units · ranks / their weight in the step: DeepSpeed averages over the ranks."""
        weight = inputs["weight"]
        sample = self.state.global_step if inputs["place"] == 0 and self._logs_next() else None
        per_example, per_token, metrics = model(row=inputs["row"], sample=sample)
        self.means.add(metrics, weight=weight)
        loss: Tensor = per_example.sum() / inputs["step_examples"] + per_token.sum() / inputs["step_tokens"]
        loss = loss * (weight * self.run.ranks.world)
        self.finite &= loss.detach().isfinite()
        return loss

    @override
    def log(self, logs: Mapping[str, float], start_time: float | None = None) -> None:
        """One metrics event; the means go over all entries of all ranks since the last one."""
        if "loss" not in logs:
            return  # transformers' summary at the end
        step, steps = self.state.global_step, self.state.max_steps
        record = {"step": step, "epoch": step / steps * self.run.objective.n_epochs, **self.means.take()}
        record[PER_EXAMPLE] += record.pop(PER_TOKEN, 0.0)
        record |= {name: logs[name] for name in ("learning_rate", "grad_norm") if name in logs}  # ZeRO-0 has no norm
        record |= self.evaluations.of(step)
        self.state.log_history.append(record)
        then, before = self.started
        left = (time.monotonic() - then) / max(step - before, 1) * (steps - step)
        data = {**record, "total_steps": steps, "eta_seconds": round(left)}
        self.run.progress.say(f"Step {step}/{steps}: {_losses(record)}", data, kind="metrics")
        for warning in (drift.first_fall(self.state.log_history), dead_masks.first_death(self.state.log_history)):
            if warning:
                self.run.progress.say(warning, {"step": step}, level="warn")

    @property
    def is_complete(self) -> bool:
        """Whether all that can be published is there: nothing was cut short by a stop."""
        history, step = self.state.log_history, self.state.global_step
        ended = step >= self.run.schedule.steps or early_stopping.is_spent(history, self.run.objective)
        return ended and not self.evaluations.owed(history, step)

    def go_on(self, newest: Checkpoint) -> None:
        """Train from a checkpoint; where the training had ended early with it, no further."""
        folder = self.run.out / newest.path
        history = json.loads((folder / TRAINER_STATE_NAME).read_text())["log_history"]
        if early_stopping.is_spent(history, self.run.objective):
            self.ends_after = newest.step_number * self.run.schedule.accumulation
        self.train(resume_from_checkpoint=str(folder))

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Make the policy what it was at a checkpoint."""
        deepspeed_load_checkpoint(self.model_wrapped, str(self.run.out / checkpoint.path))

    def _logs_next(self) -> bool:
        """Whether the step under way will be logged, as far as can be known before it."""
        step = self.state.global_step + 1
        evaluated = self.run.validation is not None and step in self.run.validation.steps
        return step == 1 or step % self.args.logging_steps == 0 or step in self.run.saves or evaluated

    @override
    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """Everything a relaunch needs and what can be served; the folder appears when all of it is there."""
        run, step = self.run, self.state.global_step
        if run.ranks.speaks:
            checkpoints.begin(run.out, step)
        run.ranks.wait_for_all()
        folder = checkpoints.partial(run.out, step)
        self.model_wrapped.save_checkpoint(str(folder), exclude_frozen_parameters=True)
        self._save_rng_state(str(folder))
        learned = Learned.of(self.model, run.assignment, keep=run.ranks.speaks)
        if run.ranks.speaks:
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
            self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            learned.write(folder, run.assignment)
        run.ranks.wait_for_all()
        if run.ranks.speaks:
            for script in folder.glob("*.py"):
                script.unlink()  # DeepSpeed leaves programs beside the data
            done = checkpoints.complete(folder, _figures(self.state.log_history[-1]))
            if run.assignment.spec.served_as == MERGED and run.objective.keep == "last":
                checkpoints.forget_states(run.out, newest=done)
            run.progress.say(f"Checkpoint at step {step}", {"checkpoint": done.model_dump()})
        run.ranks.wait_for_all()


class _Conduct(TrainerCallback):  # type: ignore[misc]
    """Between steps: do all ranks go on, and is it time to save?"""

    def __init__(self, run: Run, trainer: OfflineTrainer) -> None:
        self._run = run
        self._trainer = trainer

    @override
    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Time is measured from here, without what an earlier launch did."""
        self._trainer.started = (time.monotonic(), state.global_step)

    @override
    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """One small reduction: did a rank get SIGTERM, is a number no longer finite? Raises Diverged."""
        norm = self._trainer.model_wrapped.get_global_grad_norm()
        finite = bool(self._trainer.finite) and (norm is None or isfinite(float(norm)))
        flags = torch.tensor([self._run.stop.requested, not finite], dtype=torch.int32, device=self._run.ranks.device)
        stop, broken = self._run.ranks.sum(flags).tolist()
        if broken:
            raise Diverged(state.global_step)
        if stop or state.global_step in self._run.saves:
            control.should_save = control.should_log = True
        control.should_training_stop |= bool(stop)


def _only(items: list[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


def _losses(record: Mapping[str, float]) -> str:
    said = f"training loss={record[PER_EXAMPLE]:.4f}"
    return said + (f", validation loss={record[VALID_LOSS]:.4f}" if VALID_LOSS in record else "")


def _figures(record: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in ("step", "epoch")}
