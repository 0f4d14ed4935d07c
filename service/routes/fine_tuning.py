"""`/v1/fine_tuning/jobs`, as the official client uses it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service import admission, events, jobs
from service.pages import Page
from service.routes import Caller, Db, Parts, Reading
from service.views import Checkpoint, FineTuningJob, JobEvent, ListOf
from trainers.spec import JobSpec

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


@router.post("")
def create(spec: JobSpec, caller: Caller, parts: Parts) -> FineTuningJob:
    """Queue a job; it starts when its slots are free."""
    settings = parts.settings
    spec = admission.check(parts.database, spec, tenant=caller.tenant, settings=settings)
    with parts.database.transaction() as db:
        job = jobs.create(db, spec, tenant=caller.tenant, capacity=settings.slots)
        return FineTuningJob.of(job, settings.organization)


@router.get("")
def listing(
    caller: Caller,
    db: Reading,
    parts: Parts,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListOf[FineTuningJob]:
    """The caller's jobs, newest first."""
    found = jobs.listed(db, Page(limit, after), tenant=caller.tenant)
    organization = parts.settings.organization
    return ListOf.of([FineTuningJob.of(job, organization) for job in found.rows], has_more=found.has_more)


@router.get("/{job_id}")
def retrieve(job_id: str, caller: Caller, db: Reading, parts: Parts) -> FineTuningJob:
    """One job."""
    return FineTuningJob.of(jobs.get(db, job_id, tenant=caller.tenant), parts.settings.organization)


@router.post("/{job_id}/cancel")
def cancel(job_id: str, caller: Caller, db: Db, parts: Parts) -> FineTuningJob:
    """Ask a job to stop; it is `cancelled` once no process of it runs. A finished job stays as it is."""
    job = jobs.cancel(db, jobs.get(db, job_id, tenant=caller.tenant))
    return FineTuningJob.of(job, parts.settings.organization)


@router.get("/{job_id}/events")
def list_events(
    job_id: str,
    caller: Caller,
    db: Reading,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> ListOf[JobEvent]:
    """What happened, newest first; metrics are in `data`."""
    found = events.listed(db, jobs.get(db, job_id, tenant=caller.tenant).id, Page(limit, after))
    return ListOf.of([JobEvent.of(event) for event in found.rows], has_more=found.has_more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    caller: Caller,
    db: Reading,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> ListOf[Checkpoint]:
    """The checkpoints that a job wrote, newest first."""
    job = jobs.get(db, job_id, tenant=caller.tenant)
    found = events.checkpoints(db, job.id, Page(limit, after))
    return ListOf.of([Checkpoint.of(event, job) for event in found.rows], has_more=found.has_more)
