"""A job's events as they happen: Server-Sent Events, resumed after `Last-Event-ID`, ended by `event: done`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from service import events, jobs
from service.parts import Parts
from service.states import ENDED
from service.views import JobEvent

LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
BATCH = 200


def follow(parts: Parts, job_id: str, *, tenant: str, after: str | None) -> StreamingResponse:
    """The events after `after` (all of them if it is None), oldest first, until the job has ended."""
    seen = events.number_of(after) or 0
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_lines(parts, job_id, tenant, seen), media_type="text/event-stream", headers=headers)


async def _lines(parts: Parts, job_id: str, tenant: str, seen: int) -> AsyncIterator[str]:
    heard = time.monotonic()
    while not parts.leaving.is_set():
        fresh, ended = await run_in_threadpool(_look, parts, job_id, tenant, seen)
        for event in fresh:
            yield f"id: {event.id}\ndata: {event.model_dump_json()}\n\n"
        if fresh:
            seen, heard = events.number_of(fresh[-1].id) or seen, time.monotonic()
        elif ended:
            yield "event: done\ndata: [DONE]\n\n"
            return
        elif time.monotonic() - heard > HEARTBEAT_SECONDS:
            yield ": still here\n\n"
            heard = time.monotonic()
        if len(fresh) < BATCH and not (fresh and ended):
            await anyio.sleep(LOOK_SECONDS)


def _look(parts: Parts, job_id: str, tenant: str, seen: int) -> tuple[list[JobEvent], bool]:
    """New events, and whether the job had ended when they were read: one state of the database."""
    with parts.database.snapshot() as db:
        job = jobs.get(db, job_id, tenant=tenant)
        fresh = events.since(db, job_id, seen, BATCH)
    return [JobEvent.of(event) for event in fresh], job.status in ENDED
