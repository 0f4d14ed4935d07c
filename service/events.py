"""What happens in a job: its events and, among them, its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import pages
from service.db.tables import Event, Job
from service.errors import Invalid
from service.sentences import without_paths

PREFIX = "ftevent-"


class Progress(BaseModel):
    """An event as an attempt reports it; `seq` counts from 1 in each attempt."""

    model_config = ConfigDict(frozen=True)

    seq: int = Field(ge=1)
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] = {}

    @property
    def kind(self) -> str:
        """`checkpoint` for those that announce one, else the type."""
        return "checkpoint" if "checkpoint" in self.data else self.type


def say(db: Session, job: str, message: str, *, level: str = "info") -> None:
    """An event of the service itself."""
    db.add(Event(job=job, attempt=0, level=level, kind="message", message=message))


def ingest(db: Session, job: str, attempt: int, reported: Iterable[Progress]) -> None:
    """Keep an attempt's events, each once, however often it is reported."""
    fresh = {progress.seq: progress for progress in reported}
    theirs = select(Event.sequence).where(Event.job == job, Event.attempt == attempt, Event.sequence.in_(fresh))
    for seq in list(db.scalars(theirs)):
        del fresh[seq]  # type: ignore[arg-type]
    for progress in fresh.values():
        db.add(_row(job, attempt, progress))
    etas = [p.created_at + int(p.data["eta_seconds"]) for p in fresh.values() if "eta_seconds" in p.data]
    if etas:
        db.execute(update(Job).where(Job.id == job).values(estimated_finish=etas[-1]))


def listed(db: Session, job: str, page: pages.Page) -> pages.Slice[Event]:
    """A job's events, newest first."""
    return _newest_first(db, select(Event).where(Event.job == job), _number(page.after, PREFIX), page.limit)


def since(db: Session, job: str, number: int, limit: int) -> list[Event]:
    """A job's events after one of them, oldest first."""
    later = select(Event).where(Event.job == job, Event.number > number)
    return list(db.scalars(later.order_by(Event.number).limit(limit)))


def number_of(event: str | None) -> int | None:
    """The place of an event by its id; Invalid for what is none."""
    return _number(event, PREFIX)


def checkpoints(db: Session, job: str, page: pages.Page) -> pages.Slice[Event]:
    """The events that announced a job's checkpoints, newest first."""
    chosen = select(Event).where(Event.job == job, Event.kind == "checkpoint")
    return _newest_first(db, chosen, _number(page.after, "ftckpt_"), page.limit)


def _newest_first(db: Session, chosen: Any, before: int | None, limit: int) -> pages.Slice[Event]:
    if before is not None:
        chosen = chosen.where(Event.number < before)
    rows = list(db.scalars(chosen.order_by(Event.number.desc()).limit(limit + 1)))
    return pages.Slice(rows[:limit], len(rows) > limit)


def _number(after: str | None, prefix: str) -> int | None:
    if after is None:
        return None
    number = after.removeprefix(prefix)
    if not number.isdecimal() or len(number) > 18:
        raise Invalid(f"{after!r} is not an id from this list", param="after")
    return int(number)


def _row(job: str, attempt: int, progress: Progress) -> Event:
    return Event(
        job=job,
        attempt=attempt,
        sequence=progress.seq,
        created_at=progress.created_at,
        level=progress.level,
        kind=progress.kind,
        message=without_paths(progress.message),
        data=progress.data,
    )
