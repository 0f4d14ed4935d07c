"""What a launcher does: start, look at, stop one attempt, by a name that is always the same for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from trainers.spec import Assignment


class Phase(StrEnum):
    """Where an attempt is, seen from outside."""

    ABSENT = "absent"  #: never launched
    RUNNING = "running"
    SUCCEEDED = "succeeded"  #: the manifest is there
    STOPPED = "stopped"  #: it was asked to stop, saved a checkpoint and went
    FAILED = "failed"  #: it says why, or it died


@dataclass(frozen=True)
class Outcome:
    """What a look at an attempt found."""

    phase: Phase
    error: dict[str, Any] | None = None  #: {message, code, param} of a failed one


def attempt_name(job: str, attempt: int) -> str:
    """The one name of an attempt, in every system outside."""
    return f"{job}-a{attempt}"


class Launcher(Protocol):
    """Every call may be repeated, by several services at once: an attempt is started once in its life, and never
    again. A job goes on in a new attempt, which inherits the checkpoints of the one before."""

    def folder(self, name: str) -> Path:
        """Where the attempt's artifacts are."""
        ...

    def launch(self, assignment: Assignment, *, slots: int, token: str) -> None:
        """Start the attempt unless it was started before; it takes over what earlier attempts have saved.

        Raises OSError, or Unavailable when what it needs is not free at the moment.
        """
        ...

    def poll(self, name: str) -> Outcome:
        """Where the attempt is."""
        ...

    def stop(self, name: str) -> None:
        """Ask the attempt to stop; past the grace period, end it. Returns at once."""
        ...
