"""Checkpoints of an attempt: where they lie, which one to go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from trainers.manifest import Checkpoint

FOLDER = "checkpoints"
PREFIX = "step-"
PARTIAL = ".partial"
INDEX = "checkpoint.json"


def planned(steps: int, count: int) -> frozenset[int]:
    """The steps after which a run saves: `count` of them, evenly spaced, the last at the end."""
    return frozenset(max(1, round(steps * (place + 1) / count)) for place in range(count))


def begin(out: Path, step: int) -> Path:
    """An empty folder to save step's state into; it counts only once it is `complete`."""
    folder = out / FOLDER / f"{PREFIX}{step}{PARTIAL}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def partial(out: Path, step: int) -> Path:
    """The folder that the first rank began."""
    return out / FOLDER / f"{PREFIX}{step}{PARTIAL}"


def complete(folder: Path, metrics: dict[str, float]) -> Checkpoint:
    """Give a fully written folder its final name, in one move."""
    final = folder.with_name(folder.name.removesuffix(PARTIAL))
    step = int(final.name.removeprefix(PREFIX))
    checkpoint = Checkpoint(step_number=step, path=f"{FOLDER}/{final.name}", metrics=metrics)
    (folder / INDEX).write_text(checkpoint.model_dump_json())
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return checkpoint


def saved(out: Path) -> list[Checkpoint]:
    """The attempt's complete checkpoints, oldest first."""
    folders = [path for path in (out / FOLDER).glob(f"{PREFIX}*") if not path.name.endswith(PARTIAL)]
    found = [Checkpoint.model_validate(json.loads((folder / INDEX).read_text())) for folder in folders]
    return sorted(found, key=lambda checkpoint: checkpoint.step_number)


def forget_states(out: Path, *, newest: Checkpoint | None = None) -> None:
    """Remove what only a relaunch needs from all complete checkpoints but the newest one; what can be served stays.

    The optimiser's state is six times as large as the weights where all of them train.
    """
    for checkpoint in saved(out):
        if newest is None or checkpoint.step_number < newest.step_number:
            for folder in (out / checkpoint.path).glob("global_step*"):
                shutil.rmtree(folder)
