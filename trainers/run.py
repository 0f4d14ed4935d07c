"""What one training run works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trainers.collate import MicroBatches
from trainers.events import Progress
from trainers.objectives import Objective
from trainers.ranks import Ranks
from trainers.schedule import Schedule
from trainers.spec import Assignment
from trainers.stopping import StopSignal


@dataclass(frozen=True)
class Validation:
    """The validation file, in the rows of one pass over it, and the steps after which it is evaluated."""

    data: MicroBatches
    schedule: Schedule
    steps: frozenset[int]


@dataclass(frozen=True)
class Run:
    """What one training run works with."""

    assignment: Assignment
    out: Path
    progress: Progress
    stop: StopSignal
    ranks: Ranks
    schedule: Schedule
    data: MicroBatches
    saves: frozenset[int] = field(default_factory=frozenset)  #: steps after which a checkpoint is written
    validation: Validation | None = None

    @property
    def objective(self) -> Objective:
        """The objective with its hyperparameters."""
        return self.assignment.spec.method.objective
