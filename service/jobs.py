"""Jobs: what is asked, and the single statements that move one from state to state, each fenced by its attempt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import events, ids, pages
from service.db.tables import Job, now
from service.errors import Invalid, NotFound, Stale
from service.sentences import without_paths
from service.states import Status
from trainers.spec import JobSpec

SERVED = {
    "adapter": "served as an adapter in its base model's engine",
    "merged": "served as merged weights by an engine of its own",
}


def create(db: Session, spec: JobSpec, *, tenant: str, capacity: int) -> Job:
    """Queue a job. Raises Invalid when it asks for more slots than there are at all."""
    slots = spec.resources.slots
    if slots > capacity:
        raise Invalid(f"the job wants {slots} slots, this service has {capacity}", param="resources.slots")
    job = Job(
        id=ids.new("ftjob"),
        tenant=tenant,
        spec=spec.model_dump(mode="json"),
        status=Status.QUEUED,
        slots=slots,
    )
    db.add(job)
    db.flush()
    events.say(db, job.id, f"Created: {job.id} ({spec.method.type} on {spec.model}, {SERVED[spec.served_as]})")
    return job


def get(db: Session, job_id: str, *, tenant: str, param: str = "fine_tuning_job_id") -> Job:
    """The caller's job; NotFound for a stranger's."""
    job = db.scalar(select(Job).where(Job.id == job_id, Job.tenant == tenant))
    if job is None:
        raise NotFound(f"there is no job {job_id!r}", param=param)
    return job


def listed(db: Session, page: pages.Page, *, tenant: str) -> pages.Slice[Job]:
    """The caller's jobs, newest first."""
    return pages.cut(db, select(Job).where(Job.tenant == tenant), Job, page)


def cancel(db: Session, job: Job) -> Job:
    """Wish a job's end: a queued one is cancelled now, a running one by the scheduler; an ended one stays."""
    if job.status is Status.QUEUED:
        _move(db, job, Status.QUEUED, status=Status.CANCELLED, finished_at=now(), reason=None)
        events.say(db, job.id, "Cancelled before it started")
    elif job.status is Status.RUNNING and not job.cancel_requested:
        _move(db, job, Status.RUNNING, cancel_requested=True)
        events.say(db, job.id, "Cancellation requested: the workers stop after the current step")
    db.refresh(job)
    return job


def unfinished(db: Session) -> list[Job]:
    """Running jobs, then queued ones; oldest first."""
    alive = select(Job).where(Job.status.in_([Status.RUNNING, Status.QUEUED]))
    return list(db.scalars(alive.order_by(Job.status.desc(), Job.created_at, Job.id)))


def claim(db: Session, job: Job) -> bool:
    """Take a queued job for its next attempt; False when another took it or it was cancelled."""
    claimed = _move(
        db, job, Status.QUEUED, status=Status.RUNNING, attempt=job.attempt + 1, started_at=now(), reason=None
    )
    if claimed:
        db.refresh(job)
        events.say(db, job.id, f"Attempt {job.attempt} starts")
    return claimed


def refuse(db: Session, job: Job, capacity: int) -> None:
    """Fail a queued job that no longer fits at all: the service was started again with fewer slots."""
    sentence = f"the job wants {job.slots} slots, this service now has {capacity}"
    error = {"message": sentence, "code": "too_few_slots", "param": "resources.slots"}
    if _move(db, job, Status.QUEUED, status=Status.FAILED, finished_at=now(), reason=None, error=error):
        events.say(db, job.id, f"The job has failed: {sentence}", level="error")


def explain(db: Session, job: Job, reason: str) -> None:
    """Say why a queued job is not running."""
    if job.reason == reason or not _move(db, job, Status.QUEUED, reason=reason):
        return
    if job.reason is None:
        events.say(db, job.id, f"Queued: {reason}")


def finish(db: Session, job: Job, *, model: str, trained_tokens: int) -> None:
    """The attempt has succeeded; Stale if it is no longer the job's."""
    _end(db, job, Status.SUCCEEDED, model=model, trained_tokens=trained_tokens)
    events.say(db, job.id, f"The job has succeeded: {model}")


def fail(db: Session, job: Job, error: dict[str, Any]) -> None:
    """The attempt has failed; Stale if it is no longer the job's."""
    told = error | {"message": without_paths(error["message"])}
    _end(db, job, Status.FAILED, error=told)
    events.say(db, job.id, f"The job has failed: {told['message']}", level="error")


def stopped(db: Session, job: Job) -> None:
    """The attempt has stopped as its owner wished; Stale if it is no longer the job's."""
    _end(db, job, Status.CANCELLED)
    events.say(db, job.id, "Cancelled")


def check_current(db: Session, job_id: str, attempt: int) -> None:
    """Stale unless this attempt is the one that runs."""
    current = db.scalar(select(Job.attempt).where(Job.id == job_id, Job.status == Status.RUNNING))
    if current != attempt:
        raise Stale(f"attempt {attempt} of {job_id} is not running (any more)")


def spec_of(job: Job) -> JobSpec:
    """The frozen spec of a row."""
    return JobSpec.model_validate(job.spec)


def _end(db: Session, job: Job, status: Status, **values: Any) -> None:
    ended = {"status": status, "finished_at": now(), "estimated_finish": None, "reason": None}
    if not _move(db, job, Status.RUNNING, **ended, **values):
        raise Stale(f"attempt {job.attempt} of {job.id} is not running (any more)")


def _move(db: Session, job: Job, expected: Status, **values: Any) -> bool:
    """Change the row if it still is in the expected state and attempt: the fence."""
    fenced = update(Job).where(Job.id == job.id, Job.status == expected, Job.attempt == job.attempt).values(values)
    return bool(db.connection().execute(fenced).rowcount)
