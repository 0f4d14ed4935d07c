"""An attempt is started once in its life, whatever dies in between, however many services try.

`started` in its folder is empty while nobody has begun, locked while somebody does, and says so once the processes may
exist. A start that was begun is never repeated: if no process is found, the attempt has died.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from service.launchers.base import attempt_name

MARK, EXTENSIONS, CHECKPOINTS = "started", "torch_extensions", "checkpoints"
#: of a checkpoint: what can be served, and what says that it is complete
SERVED = frozenset({"adapter", "merged", "objective", "checkpoint.json"})


class Start(Enum):
    """How far the start of an attempt has come."""

    NOT_BEGUN = "not begun"
    UNDER_WAY = "under way"
    BEGUN = "begun"


@dataclass(frozen=True)
class Starting:
    """The right to start an attempt."""

    mark: int

    def begins(self) -> None:
        """From now on processes may exist: the start is never tried again."""
        os.write(self.mark, b"started\n")
        os.fsync(self.mark)


@contextmanager
def start_of(out: Path) -> Iterator[Starting | None]:
    """The right to start the attempt in this folder; None if it was begun before or is under way elsewhere."""
    mark = os.open(out / MARK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield Starting(mark) if _lock(mark) and not os.fstat(mark).st_size else None
    finally:
        os.close(mark)


def starting(out: Path) -> Start:
    """How far the start in this folder has come."""
    try:
        mark = os.open(out / MARK, os.O_RDWR)
    except FileNotFoundError:
        return Start.NOT_BEGUN
    try:
        if not _lock(mark):
            return Start.UNDER_WAY
        return Start.BEGUN if os.fstat(mark).st_size else Start.NOT_BEGUN
    finally:
        os.close(mark)


def _lock(mark: int) -> bool:
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def inherit(root: Path, job: str, attempt: int) -> None:
    """Make the attempt's folder, with links to all that the job's last attempt had saved in folders of its own.

    Of the older ones, what is served keeps its place; the rest, optimiser states above all, is the new attempt's alone.
    """
    out = root / attempt_name(job, attempt)
    before = previous(root, job, attempt)
    if out.exists():
        return
    if before is None:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        return
    fresh = root / f"{out.name}.{os.getpid()}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    for folder in (path for path in before.iterdir() if path.is_dir() and path.name != EXTENSIONS):
        shutil.copytree(folder, fresh / folder.name, copy_function=os.link, ignore=shutil.ignore_patterns("*.partial"))
    try:
        fresh.rename(out)
    except OSError:  # another service was first
        shutil.rmtree(fresh)
        if not out.exists():
            raise
        return
    _keep_what_is_served(before)


def _keep_what_is_served(folder: Path) -> None:
    parts = [path for path in folder.iterdir() if path.is_dir() and path.name != CHECKPOINTS]
    parts += [part for part in folder.glob(f"{CHECKPOINTS}/*/*") if part.name not in SERVED]
    for part in parts:
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)


def previous(root: Path, job: str, attempt: int) -> Path | None:
    """The folder of the job's newest attempt before this one."""
    folders = (root / attempt_name(job, number) for number in range(attempt - 1, 0, -1))
    return next((folder for folder in folders if folder.is_dir()), None)
