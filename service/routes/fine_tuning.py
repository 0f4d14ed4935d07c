"""`/v1/fine_tuning/jobs`, as the official client uses it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import StreamingResponse

from service import admission, events, jobs
from service.pages import Page
from service.requests import Origin
from service.routes import Caller, Db, Parts, Reading, streams
from service.views import Checkpoint, FineTuningJob, JobEvent, ListOf
from trainers.spec import JobSpec

METADATA = re.compile(r"metadata\[([^\[\]]{1,64})\]")

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


@router.post("")
def create(
    spec: JobSpec,
    caller: Caller,
    parts: Parts,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    x_stainless_retry_count: Annotated[int, Header(ge=0)] = 0,
) -> FineTuningJob:
    """Queue a job; it starts when its slots are free. The same request sent again gives back the same job."""
    settings = parts.settings
    origin = Origin(caller.key, spec, idempotency_key, retried=x_stainless_retry_count > 0)
    spec = admission.check(parts.database, spec, tenant=caller.tenant, settings=settings)
    with parts.database.transaction() as db:
        job = jobs.create(db, spec, tenant=caller.tenant, room=settings.room, origin=origin)
        return FineTuningJob.of(job, settings.organization)


@router.get("")
def listing(
    request: Request,
    caller: Caller,
    db: Reading,
    parts: Parts,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListOf[FineTuningJob]:
    """The caller's jobs, newest first; `metadata[key]=value` chooses among them, `metadata=null` those without."""
    asked = [(METADATA.fullmatch(name), value) for name, value in request.query_params.multi_items()]
    metadata = {name[1]: value for name, value in asked if name}
    bare = request.query_params.get("metadata") == "null"
    found = jobs.listed(db, Page(limit, after), tenant=caller.tenant, metadata=metadata, bare=bare)
    organization = parts.settings.organization
    return ListOf.of([FineTuningJob.of(job, organization) for job in found.rows], has_more=found.has_more)


@router.get("/{job_id}")
def retrieve(job_id: str, caller: Caller, db: Reading, parts: Parts) -> FineTuningJob:
    """One job."""
    return FineTuningJob.of(jobs.get(db, job_id, tenant=caller.tenant), parts.settings.organization)


@router.post("/{job_id}/cancel")
def cancel(job_id: str, caller: Caller, db: Db, parts: Parts) -> FineTuningJob:
    """Ask a job to stop; it is `cancelled` once no process of it runs. A finished job stays as it is."""
    job = jobs.cancel(db, jobs.get(db, job_id, tenant=caller.tenant, change=True))
    return FineTuningJob.of(job, parts.settings.organization)


@router.post("/{job_id}/pause")
def pause(job_id: str, caller: Caller, db: Db, parts: Parts) -> FineTuningJob:
    """Ask a job to save a checkpoint and give its slots back; it is `paused` once no process of it runs."""
    job = jobs.pause(db, jobs.get(db, job_id, tenant=caller.tenant, change=True))
    return FineTuningJob.of(job, parts.settings.organization)


@router.post("/{job_id}/resume")
def resume(job_id: str, caller: Caller, db: Db, parts: Parts) -> FineTuningJob:
    """Queue a paused job again; it goes on from its newest checkpoint."""
    job = jobs.resume(db, jobs.get(db, job_id, tenant=caller.tenant, change=True))
    return FineTuningJob.of(job, parts.settings.organization)


@dataclass(frozen=True)
class Wanted:
    """Which events, and how."""

    after: str | None = None
    limit: Annotated[int, Query(ge=1, le=1000)] = 20
    stream: bool = False
    accept: Annotated[str, Header()] = ""
    last_event_id: Annotated[str | None, Header()] = None


@router.get("/{job_id}/events", response_model=ListOf[JobEvent])
def list_events(
    job_id: str, caller: Caller, db: Reading, parts: Parts, wanted: Annotated[Wanted, Depends()]
) -> ListOf[JobEvent] | StreamingResponse:
    """What happened, newest first; metrics are in `data`. With `stream=true`, as it happens, oldest first."""
    job = jobs.get(db, job_id, tenant=caller.tenant)
    if wanted.stream or "text/event-stream" in wanted.accept:
        return streams.follow(parts, job.id, tenant=caller.tenant, after=wanted.last_event_id or wanted.after)
    found = events.listed(db, job.id, Page(wanted.limit, wanted.after))
    return ListOf.of([JobEvent.of(event) for event in found.rows], has_more=found.has_more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    caller: Caller,
    db: Reading,
    parts: Parts,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
) -> ListOf[Checkpoint]:
    """The checkpoints that a job wrote, newest first."""
    job = jobs.get(db, job_id, tenant=caller.tenant)
    found = events.checkpoints(db, job.id, Page(limit, after))
    organization = parts.settings.organization
    return ListOf.of([Checkpoint.of(event, job, organization) for event in found.rows], has_more=found.has_more)
