"""The validation file between steps: its loss and metrics, and whether the training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback
from typing_extensions import override

from trainers import early_stopping
from trainers.early_stopping import VALID_LOSS, VALID_PREFIX
from trainers.errors import Diverged
from trainers.learner import ALL, PER_EXAMPLE, PER_TOKEN
from trainers.means import Means
from trainers.rows import on
from trainers.run import Run, Validation

if TYPE_CHECKING:
    from trainers.offline import OfflineTrainer

#: says nothing of the validation file
MEMORY = "memory/"


def planned(steps: int, saves: frozenset[int], every: int | None) -> frozenset[int]:
    """The steps after which a run evaluates: at each checkpoint, at the end and, where asked for, every so many."""
    return saves | {steps} | frozenset(range(every, steps, every) if every else ())


@torch.no_grad()
def evaluate(model: nn.Module, validation: Validation, run: Run) -> dict[str, float] | None:
    """The means over the whole file, by the rule of the training: each unit's weight over the sum of all weights.

    Every rank must call it. None where a rank was asked to stop meanwhile. Nothing random is drawn: dropout is off.
    """
    means, training = Means(run.ranks.device), model.training
    model.eval()
    try:
        for [micro_batch] in validation.schedule:
            if run.ranks.any(run.stop.requested):
                return None
            row = on(run.ranks.device, validation.data[micro_batch]["row"])
            *_, metrics = model(row=row, sample=ALL)
            means.add(metrics, weight=micro_batch.weight)
    finally:
        model.train(training)
    return _named(means.take())


def _named(means: Mapping[str, float]) -> dict[str, float]:
    loss = means[PER_EXAMPLE] + means.get(PER_TOKEN, 0.0)
    rest = {name: value for name, value in means.items() if name not in (PER_EXAMPLE, PER_TOKEN)}
    return {VALID_LOSS: loss} | {VALID_PREFIX + name: rest[name] for name in rest if not name.startswith(MEMORY)}


class Evaluations(TrainerCallback):  # type: ignore[misc]
    """Evaluates after the planned steps, in time for the step's metrics event and its checkpoint."""

    def __init__(self, trainer: OfflineTrainer, run: Run) -> None:
        self._trainer = trainer
        self._run = run
        self._found: tuple[int, dict[str, float]] = (-1, {})

    def of(self, step: int) -> dict[str, float]:
        """What was found after this step, and nothing after any other."""
        return self._found[1] if self._found[0] == step else {}

    def owed(self, history: early_stopping.History, step: int) -> bool:
        """Whether the policy after this step should have been evaluated and was not: before the first, or at a stop."""
        validation = self._run.validation
        due = validation is not None and (step == 0 or step in validation.steps)
        return due and step not in early_stopping.evaluations(history)

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The start, to compare with; or what a launch that was stopped has left out."""
        step = state.global_step
        if self.owed(state.log_history, step) and (found := self._evaluate(step)):
            state.log_history.append({"step": step, **found})
            when = f"After step {step}" if step else "Before the first step"
            said = f"{when}: validation loss={found[VALID_LOSS]:.4f}"
            self._run.progress.say(said, {"step": step, "total_steps": state.max_steps, **found})

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a planned step; where the loss has not fallen for long enough, the training ends with a checkpoint."""
        step = state.global_step
        found = self._evaluate(step) if self.owed(state.log_history, step) else None
        self._found = (step, found or {})
        control.should_log |= found is not None
        history = [*state.log_history, {"step": step, **(found or {})}]
        if early_stopping.is_spent(history, self._run.objective):
            control.should_log = control.should_save = control.should_training_stop = True
            self._run.progress.say(early_stopping.sentence(history), {"step": step})

    def _evaluate(self, step: int) -> dict[str, float] | None:
        validation = self._run.validation
        if validation is None:
            return None
        found = evaluate(self._trainer.model_wrapped, validation, self._run)
        if found is not None and not isfinite(found[VALID_LOSS]):
            raise Diverged(step, of="validation")
        return found
