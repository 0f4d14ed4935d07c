"""Jobs: what is asked, and the single statements that move one from state to state, each fenced by its attempt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, select, update
from sqlalchemy.orm import Session

from service import events, ids, pages, requests, webhooks
from service.db import insert_once
from service.db.clock import clock
from service.db.tables import Home, Job, now
from service.errors import Invalid, NotFound, Stale
from service.requests import Origin
from service.sentences import without_paths
from service.states import ENDED, Status
from service.turns import Entry, Room
from trainers.spec import JobSpec

SERVED = {
    "adapter": "served as an adapter in its base model's engine",
    "merged": "served as merged weights by an engine of its own",
}


def create(db: Session, spec: JobSpec, *, tenant: str, room: Room, origin: Origin) -> Job:
    """Queue a job, or give back the one that this very request has queued already.

    Raises Invalid when it asks for more slots than it can ever have.
    """
    slots = spec.resources.slots
    if slots > room.most:
        raise Invalid(f"the job wants {slots} slots, this service has {room.most} for you", param="resources.slots")
    digest = origin.digest()
    if known := requests.earlier(db, origin, digest, tenant=tenant):
        return known
    job_id = ids.new("ftjob")
    row = {
        "id": job_id,
        "tenant": tenant,
        "spec": spec.model_dump(mode="json"),
        "status": Status.QUEUED,
        "slots": slots,
        "priority": spec.resources.priority,
        "idempotency_key": origin.key,
        "request": digest,
        "retried": origin.retried,
    }
    if not insert_once(db, Job, row):  # the same key, committed by another service since the look above
        return create(db, spec, tenant=tenant, room=room, origin=origin)
    events.say(db, job_id, f"Created: {job_id} ({spec.method.type} on {spec.model}, {SERVED[spec.served_as]})")
    return db.get_one(Job, job_id)


def get(db: Session, job_id: str, *, tenant: str, change: bool = False, param: str = "fine_tuning_job_id") -> Job:
    """The caller's job; NotFound for a stranger's. To be changed, it is kept as it is until the transaction ends."""
    mine = select(Job).where(Job.id == job_id, Job.tenant == tenant)
    job = db.scalar(mine.with_for_update(key_share=True) if change else mine)
    if job is None:
        raise NotFound(f"there is no job {job_id!r}", param=param)
    return job


def listed(
    db: Session, page: pages.Page, *, tenant: str, metadata: dict[str, str] | None = None, bare: bool = False
) -> pages.Slice[Job]:
    """The caller's jobs, newest first; those with all these metadata, or with none at all (`bare`)."""
    chosen = select(Job).where(Job.tenant == tenant)
    for key, value in (metadata or {}).items():
        chosen = chosen.where(Job.spec[("metadata", key)].as_string() == value)
    if bare:
        chosen = chosen.where(Job.spec["metadata"].as_string().is_(None))
    return pages.cut(db, chosen, Job, page)


def cancel(db: Session, job: Job) -> Job:
    """Wish a job's end: at once where nothing of it runs, else by the scheduler; an ended one stays."""
    if job.status in (Status.QUEUED, Status.PAUSED):
        _move(db, job, job.status, status=Status.CANCELLED, finished_at=now(), reason=None)
        events.say(db, job.id, "Cancelled before it started" if job.attempt == 0 else "Cancelled")
        webhooks.announce(db, job, Status.CANCELLED)
    elif job.status is Status.RUNNING and not job.cancel_requested:
        _move(db, job, Status.RUNNING, cancel_requested=True)
        events.say(db, job.id, "Cancellation requested: the workers stop after the current step")
    db.refresh(job)
    return job


def pause(db: Session, job: Job) -> Job:
    """Wish that a job gives its slots back and keeps its checkpoint. Invalid for one that has ended."""
    if job.status in ENDED or job.cancel_requested:
        raise Invalid(f"{job.id} cannot be paused: it is {_state(job)}", code="job_not_pausable")
    if job.status is Status.QUEUED:
        _move(db, job, Status.QUEUED, status=Status.PAUSED, reason=None)
        events.say(db, job.id, "Paused")
    elif job.status is Status.RUNNING and not job.pause_requested:
        _move(db, job, Status.RUNNING, pause_requested=True)
        events.say(db, job.id, "Pause requested: the workers save a checkpoint after the current step and stop")
    db.refresh(job)
    return job


def resume(db: Session, job: Job) -> Job:
    """Queue a paused job again, or take back a pause that has not come about. Invalid for one that has ended."""
    if job.status in ENDED or job.cancel_requested:
        raise Invalid(f"{job.id} cannot be resumed: it is {_state(job)}", code="job_not_resumable")
    if job.status is Status.PAUSED:
        _move(db, job, Status.PAUSED, status=Status.QUEUED, not_before=0)
        events.say(db, job.id, "Resumed: queued again, it goes on from its newest checkpoint")
    elif job.status is Status.RUNNING and job.pause_requested:
        _move(db, job, Status.RUNNING, pause_requested=False)
        events.say(db, job.id, "The pause was taken back")
    db.refresh(job)
    return job


def any_queued(db: Session) -> bool:
    """Whether the queue holds a job."""
    return db.scalar(select(Job.id).where(Job.status == Status.QUEUED).limit(1)) is not None


def entries(db: Session, status: Status) -> list[Entry]:
    """What the queue needs to know of all jobs in a state."""
    columns = (Job.id, Job.tenant, Job.slots, Job.priority, Job.attempt, Job.created_at, Job.not_before, Job.reason)
    return [Entry(*row) for row in db.execute(select(*columns).where(Job.status == status))]


def lock_queue(db: Session) -> bool:
    """Be the only one who claims, until the transaction ends; False while another service does."""
    return db.scalar(select(Home.id).with_for_update(skip_locked=True)) is not None


def claim(db: Session, entry: Entry, *, owner: str, seconds: float, root: str) -> Job | None:
    """Take a queued job for its next attempt; None when another took it or it was cancelled."""
    lease = {"lease_owner": owner, "lease_until": clock() + seconds}
    values = {"status": Status.RUNNING, "attempt": entry.attempt + 1, "started_at": now(), "reason": None}
    if not _move(db, entry, Status.QUEUED, root=root, **values, **lease):
        return None
    events.say(db, entry.id, f"Attempt {entry.attempt + 1} starts")
    return db.get_one(Job, entry.id)


def refuse(db: Session, entry: Entry, room: Room) -> None:
    """Fail a queued job that no longer fits at all: the service was started again with fewer slots."""
    sentence = f"the job wants {entry.slots} slots, this service now has {room.most}"
    error = {"message": sentence, "code": "too_few_slots", "param": "resources.slots"}
    if _move(db, entry, Status.QUEUED, status=Status.FAILED, finished_at=now(), reason=None, error=error):
        events.say(db, entry.id, f"The job has failed: {sentence}", level="error")
        webhooks.announce(db, db.get_one(Job, entry.id), Status.FAILED)


def explain(db: Session, entry: Entry, reason: str) -> None:
    """Say why a queued job is not running."""
    if entry.reason == reason or not _move(db, entry, Status.QUEUED, reason=reason):
        return
    if entry.reason is None:
        events.say(db, entry.id, f"Queued: {reason}")


def requeue(db: Session, job: Job, why: str, *, failed: bool, pause: float = 0) -> None:
    """The attempt has ended and the job has not: it waits for its next one. Stale if it is no longer the job's."""
    values = {"failures": job.failures + failed, "not_before": now() + round(pause), "pause_requested": False}
    _leave(db, job, status=Status.QUEUED, reason=why, **values)
    events.say(db, job.id, f"Attempt {job.attempt} has ended: {why}", level="warn")


def paused(db: Session, job: Job) -> None:
    """The attempt has stopped and the job waits for its owner; Stale if it is no longer the job's."""
    _leave(db, job, status=Status.PAUSED, reason=None, pause_requested=False)
    events.say(db, job.id, "Paused: its slots are free, `resume` goes on from its newest checkpoint")


def finish(db: Session, job: Job, *, model: str, trained_tokens: int, result_file: str | None = None) -> None:
    """The attempt has succeeded; Stale if it is no longer the job's."""
    _end(db, job, Status.SUCCEEDED, model=model, trained_tokens=trained_tokens, result_file=result_file)
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


def hold_current(db: Session, job_id: str, attempt: int) -> None:
    """Keep the job's row as it is until the transaction ends; Stale unless this attempt is the one that runs."""
    running = select(Job.attempt).where(Job.id == job_id, Job.status == Status.RUNNING)
    if db.scalar(running.with_for_update(key_share=True)) != attempt:
        raise Stale(f"attempt {attempt} of {job_id} is not running (any more)")


def spec_of(job: Job) -> JobSpec:
    """The frozen spec of a row."""
    return JobSpec.model_validate(job.spec)


def _state(job: Job) -> str:
    return "being cancelled" if job.cancel_requested and job.status not in ENDED else job.status.value


def _end(db: Session, job: Job, status: Status, **values: Any) -> None:
    _leave(db, job, status=status, finished_at=now(), reason=None, **values)
    webhooks.announce(db, job, status)


def _leave(db: Session, job: Job, **values: Any) -> None:
    """Out of `running`."""
    values |= {"estimated_finish": None, "lease_owner": None, "lease_until": 0.0}
    if not _move(db, job, Status.RUNNING, **values):
        raise Stale(f"attempt {job.attempt} of {job.id} is not running (any more)")


def _move(db: Session, job: Job | Entry, expected: Status, **values: Any) -> bool:
    """Change the row if it still is in the expected state and attempt: the fence."""
    fence = and_(Job.id == job.id, Job.status == expected, Job.attempt == job.attempt)
    return bool(db.connection().execute(update(Job).where(fence).values(values)).rowcount)
