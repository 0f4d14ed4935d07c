"""When the validation loss no longer falls, and which checkpoint had the lowest. Torch-free.

Both are read from the run's log, which every checkpoint holds: a relaunch goes on counting where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainers.manifest import Checkpoint
from trainers.objectives import Objective

#: the loss on the validation file, and what is in front of its other metrics' names
VALID_LOSS, VALID_PREFIX = "valid_loss", "valid/"
History = Sequence[Mapping[str, Any]]


def evaluations(history: History) -> dict[int, float]:
    """The validation loss by step, 0 for the policy as it was at the start."""
    return {int(record["step"]): float(record[VALID_LOSS]) for record in history if VALID_LOSS in record}


def waited(history: History, min_delta: float) -> int:
    """How many evaluations ago the loss last fell more than `min_delta` below the lowest before it."""
    lowest, count = float("inf"), 0
    for loss in evaluations(history).values():
        if loss < lowest - min_delta:
            lowest, count = loss, 0
        else:
            count += 1
    return count


def is_spent(history: History, objective: Objective) -> bool:
    """Whether the loss has not fallen for as many evaluations as the job's patience."""
    patience = objective.early_stopping_patience
    return patience is not None and waited(history, objective.early_stopping_min_delta) >= patience


def sentence(history: History) -> str:
    """Why the training ends, for the job's owner."""
    losses = evaluations(history)
    last, best = max(losses), min(losses, key=losses.__getitem__)
    lowest = f"its lowest was {losses[best]:.4f} at step {best}"
    return f"Stopping early after step {last}: the validation loss is {losses[last]:.4f}, {lowest}"


def lowest(checkpoints: Sequence[Checkpoint], history: History) -> Checkpoint | None:
    """The checkpoint with the lowest validation loss, the earliest of equals; None where none was evaluated."""
    losses = evaluations(history)
    known = [checkpoint for checkpoint in checkpoints if checkpoint.step_number in losses]
    return min(known, key=lambda checkpoint: losses[checkpoint.step_number], default=None)
