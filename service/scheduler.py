"""The scheduler: look at what runs, end what has ended, start what fits; each step fenced by its attempt."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service import events, files, jobs, keys, leases, metrics_file, registry, turns
from service.db import Database
from service.db.tables import Job, Policy, now
from service.errors import NotFound, Refusal, Stale, Unavailable
from service.launchers.base import Launcher, Outcome, Phase, attempt_name
from service.sentences import without_paths
from service.settings import Settings
from service.states import Status
from service.turns import Entry
from trainers.manifest import NAME as MANIFEST
from trainers.manifest import Manifest
from trainers.protocol import EVENTS
from trainers.spec import Assignment

log = logging.getLogger(__name__)


#: ends of an attempt that are not the job's own doing; they are tried again, within the budget
INFRASTRUCTURE = frozenset({"worker_died", "launch_failed"})
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0


@dataclass(frozen=True)
class Scheduler:
    """load → act → apply: nothing outside is called while a transaction is open.

    Several may run on one database: each follows the attempts that it holds a lease on, one at a time claims.
    """

    settings: Settings
    database: Database
    launcher: Launcher
    #: told each finished policy's servable, so that it answers before it is asked
    on_success: Callable[[str, str], None]
    owner: str

    def tick(self) -> None:
        """One look at the running jobs that are this scheduler's, and at the queue."""
        for job in leases.take(self.database, self.owner, self.settings.lease_seconds):
            self._apart(self._follow, job)
        with self.database.snapshot() as db:
            idle = not jobs.any_queued(db)
        if not idle:  # an idle service does not lock its database
            for job in self._claimed():
                self._apart(self._launch, job)

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; an error is logged and the next tick tries again."""
        while not stop.wait(self.settings.tick_seconds):
            try:
                self.tick()
            except Exception:
                log.exception("a scheduler tick failed; the next one tries again")
        with contextlib.suppress(DBAPIError), self.database.transaction() as db:
            leases.release(db, self.owner)

    def _apart(self, step: Callable[[Job], None], job: Job) -> None:
        """One job's trouble is not the others': it is logged, and that job is looked at again at the next tick."""
        try:
            step(job)
        except Stale as stale:
            log.warning("a stale write was refused: %s", stale)
        except Exception:
            log.exception("the scheduler could not deal with %s; it tries again", job.id)

    def _follow(self, job: Job) -> None:
        name = attempt_name(job.id, job.attempt)
        unwanted = job.cancel_requested or job.pause_requested
        outcome = self.launcher.poll(name)
        if outcome.phase is Phase.RUNNING:
            if unwanted:
                self.launcher.stop(name)
        elif outcome.phase is Phase.ABSENT and not unwanted:
            self._launch(job)
        else:
            self._end(job, outcome, self.launcher.folder(name))

    def _end(self, job: Job, outcome: Outcome, folder: Path) -> None:
        """Take in what the attempt left, and move the job, in one transaction. Raises Stale."""
        left = _left_behind(folder)
        with self.database.transaction() as db:
            jobs.hold_current(db, job.id, job.attempt)
            events.ingest(db, job.id, job.attempt, left)
            policy = self._move(db, db.get_one(Job, job.id), outcome, folder)
        if policy is not None:
            self.on_success(policy, job.tenant)

    def _move(self, db: Session, job: Job, outcome: Outcome, folder: Path) -> str | None:
        """The job's next state, with its owner's latest wishes; the policy's id if there is one."""
        if outcome.phase is Phase.SUCCEEDED:
            try:
                return self._finish(db, job, Manifest.model_validate_json((folder / MANIFEST).read_text()), folder)
            except ValidationError as error:
                jobs.fail(db, job, _error(f"the attempt's manifest cannot be read: {error}", "bad_manifest"))
        elif job.cancel_requested:
            jobs.stopped(db, job)
        elif job.pause_requested:
            jobs.paused(db, job)
        elif outcome.phase is Phase.STOPPED:
            jobs.requeue(db, job, "it was stopped from outside; it goes on from its checkpoint", failed=False)
        elif outcome.phase is Phase.ABSENT:
            jobs.requeue(db, job, "it was not started", failed=False)
        else:
            self._fail(db, job, outcome.error or _error("the attempt failed", "worker_error"))
        return None

    def _fail(self, db: Session, job: Job, error: dict[str, Any]) -> None:
        """The end of the job, unless the infrastructure ended the attempt and there is budget for another."""
        if error["code"] not in INFRASTRUCTURE:
            jobs.fail(db, job, error)
        elif job.failures < self.settings.infrastructure_retries:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**job.failures)
            jobs.requeue(db, job, without_paths(error["message"].partition("; the end")[0]), failed=True, pause=pause)
        else:
            tried = f" (attempt {job.attempt}; no retry is left)" if job.failures else ""
            jobs.fail(db, job, error | {"message": error["message"].replace(";", f"{tried};", 1)})

    def _finish(self, db: Session, job: Job, manifest: Manifest, folder: Path) -> str:
        policy = registry.policy_id(job, jobs.spec_of(job), manifest.base_model, self.settings.organization)
        results = metrics_file.write(db, job, self.settings.files)
        jobs.finish(db, job, model=policy, trained_tokens=manifest.trained_tokens, result_file=results)
        registry.register(db, job, manifest, folder, policy)
        return policy

    def _claimed(self) -> list[Job]:
        """Claim the jobs whose turn it is, and say to the others what they wait for."""
        with self.database.transaction() as db:
            if not jobs.lock_queue(db):
                return []  # another scheduler is at it
            waiting = {entry.id: entry for entry in jobs.entries(db, Status.QUEUED)}
            plan = turns.plan(waiting.values(), jobs.entries(db, Status.RUNNING), self.settings.room, now())
            for entry in plan.impossible:
                jobs.refuse(db, entry, self.settings.room)
            for job_id, reason in plan.reasons.items():
                jobs.explain(db, waiting[job_id], reason)
            return [job for entry in plan.start if (job := self._claim(db, entry))]

    def _claim(self, db: Session, entry: Entry) -> Job | None:
        root = str(self.settings.artifacts)
        return jobs.claim(db, entry, owner=self.owner, seconds=self.settings.lease_seconds, root=root)

    def _launch(self, job: Job) -> None:
        try:
            with self.database.snapshot() as db:
                assignment = self._assignment(db, job)
            token = keys.attempt_token(self.settings.secret, job.id, job.attempt)
            self.launcher.launch(assignment, slots=job.slots, token=token)
        except (Refusal, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            ours = isinstance(error, OSError | Unavailable)
            failure = _error(f"the attempt could not be started: {why}", "launch_failed" if ours else "not_startable")
            with self.database.transaction() as db:
                jobs.hold_current(db, job.id, job.attempt)
                self._move(db, db.get_one(Job, job.id), Outcome(Phase.FAILED, failure), Path())

    def _assignment(self, db: Session, job: Job) -> Assignment:
        spec = jobs.spec_of(job)
        found = registry.find(db, spec.model, tenant=job.tenant)
        model, weights = registry.servable(db, found), registry.weights_of(db, found)
        return Assignment(
            job=job.id,
            attempt=job.attempt,
            spec=spec,
            base_model=registry.base_of(db, found).name,
            model_path=model.base_path,
            model_digest=weights.digest or "",
            merged_model=weights.id if isinstance(weights, Policy) else None,
            adapter_path=model.adapter_path,
            training_path=self._path(db, spec.training_file, job),
            validation_path=self._path(db, spec.validation_file, job) if spec.validation_file else None,
            events_url=f"{self.settings.public_url}/internal/attempts/{job.id}/{job.attempt}/events",
        )

    def _path(self, db: Session, file_id: str, job: Job) -> Path:
        try:
            return self.settings.files / files.get(db, file_id, tenant=job.tenant).id
        except NotFound as missing:
            raise Refusal(f"file {file_id} was deleted before the job started") from missing


def _error(message: str, code: str) -> dict[str, Any]:
    return {"message": message, "code": code, "param": None}


def _left_behind(folder: Path) -> list[events.Progress]:
    """The events an attempt wrote down; a line that is none, cut short by its death say, is left out."""
    try:
        lines = (folder / EVENTS).read_text().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValidationError):
            found.append(events.Progress.model_validate_json(line))
    return found
