"""Our side: a job's worker as it is, but for the batches' order, and nothing published at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bench.side import ALPHA, BETA, CLIP, LOGGING_STEPS, RANK, SEED, Asked, Clock, clocked, draw_adapter
from trainers import tuning
from trainers.offline import OfflineTrainer
from trainers.schedule import Schedule
from trainers.spec import METHODS, Assignment, JobSpec
from trainers.stopping import StopSignal


@dataclass(frozen=True)
class Ordered(Schedule):
    """The batches of the other side."""

    order: tuple[tuple[int, ...], ...] = ()

    @property
    def steps(self) -> int:
        """As many as there are batches."""
        return len(self.order)

    def _steps(self) -> Iterator[list[int]]:
        return iter([list(step) for step in self.order])


class ReferenceTime:
    """Progress that finds, among what a job says, how long its reference pass took."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = time.perf_counter()

    def say(self, message: str, data: Mapping[str, Any] | None = None, **_: str) -> None:
        """The sentence about the store comes right after the pass, the one before it right before."""
        del message
        now = time.perf_counter()
        if (data or {}).get("reference") == "store":
            self._clock.reference_seconds = now - self._last
        self._last = now

    def close(self, seconds: float = 0.0) -> None:
        """Nothing to send."""


class Done(Exception):
    """The training has ended: nothing after it is measured."""


def train(asked: Asked, clock: Clock) -> None:
    """Run the job up to its last step."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    order = tuple(tuple(step) for step in asked.steps)

    class Recorded(clocked(OfflineTrainer)):  # type: ignore[misc]
        def __init__(self, learner: Any, *rest: Any) -> None:
            draw_adapter(learner.policy)
            super().__init__(learner, *rest)

        def train(self, *args: Any, **kwargs: Any) -> None:
            super().train(*args, **kwargs)
            raise Done

    Recorded.clock = clock
    parts = tuning.Parts(schedule=partial(Ordered, order=order), trainer=Recorded)
    asked.scratch.mkdir(parents=True, exist_ok=True)
    try:
        tuning.tune(assignment(asked), asked.scratch, ReferenceTime(clock), StopSignal(), parts)
    except Done:
        return


def assignment(asked: Asked) -> Assignment:
    """The job: what the other side is given, and this service's defaults for the rest."""
    known = type(METHODS[asked.side.method](type=asked.side.method).objective).model_fields
    shared = {"beta": BETA} if "beta" in known else {}
    shared |= {"n_epochs": asked.scale.epochs, "batch_size": asked.scale.batch, "learning_rate": asked.learning_rate}
    shared |= {"warmup_ratio": 0.0, "max_grad_norm": CLIP, "logging_steps": LOGGING_STEPS, "checkpoints": 1}
    peft = {"type": "full"} if asked.peft == "full" else {"type": "lora", "r": RANK, "lora_alpha": ALPHA}
    method = asked.side.method
    spec = {
        "model": "random",
        "training_file": "file-pairs",
        "seed": SEED,
        "method": {"type": method, method: {"hyperparameters": shared | dict(asked.side.settings)}},
        "peft": peft,
    }
    places = {"model_path": asked.model, "training_path": asked.pairs, "model_digest": "random"}
    return Assignment(job="bench", attempt=1, spec=JobSpec.model_validate(spec), base_model="random", **places)
