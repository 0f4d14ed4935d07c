"""Where attempts report; they bring their own token, and it is good for nothing else."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service import events, jobs
from service.events import Progress
from service.routes import Db

router = APIRouter(prefix="/internal/attempts", include_in_schema=False)


class Report(BaseModel):
    """A batch of an attempt's events, in order."""

    events: list[Progress] = Field(max_length=1000)


@router.post("/{job_id}/{attempt}/events", status_code=204)
def report(job_id: str, attempt: int, body: Report, db: Db) -> None:
    """Take in events; Stale (409) tells an attempt that is no longer wanted."""
    jobs.hold_current(db, job_id, attempt)
    events.ingest(db, job_id, attempt, body.events)
