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
from sqlalchemy.orm import Session

from service import events, jobs, keys, registry
from service.db import Database
from service.db.tables import File, Job, Policy
from service.errors import Refusal, Stale
from service.launchers.base import Launcher, Outcome, Phase, attempt_name
from service.settings import Settings
from service.states import Status
from trainers.manifest import NAME as MANIFEST
from trainers.manifest import Manifest
from trainers.protocol import EVENTS
from trainers.spec import Assignment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scheduler:
    """load → act → apply: nothing outside is called while a transaction is open."""

    settings: Settings
    database: Database
    launcher: Launcher
    #: told each finished policy's servable, so that it answers before it is asked
    on_success: Callable[[str, str], None]

    def tick(self) -> None:
        """One look at every unfinished job."""
        with self.database.snapshot() as db:
            unfinished = jobs.unfinished(db)
        for job in unfinished:
            if job.status is Status.RUNNING:
                self._apart(self._follow, job)
        if any(job.status is Status.QUEUED for job in unfinished):  # an idle service does not lock its database
            for job in self._claimed():
                self._apart(self._launch, job)

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; an error is logged and the next tick tries again."""
        while not stop.wait(self.settings.tick_seconds):
            try:
                self.tick()
            except Exception:
                log.exception("a scheduler tick failed; the next one tries again")

    def _apart(self, step: Callable[[Job], None], job: Job) -> None:
        """One job's trouble is not the others': it is logged, and that job is looked at again at the next tick."""
        try:
            step(job)
        except Exception:
            log.exception("the scheduler could not deal with %s; it tries again", job.id)

    def _follow(self, job: Job) -> None:
        name = attempt_name(job.id, job.attempt)
        outcome = self.launcher.poll(name)
        if outcome.phase is Phase.RUNNING:
            if job.cancel_requested:
                self.launcher.stop(name)
        elif outcome.phase is Phase.ABSENT and not job.cancel_requested:
            self._launch(job)
        elif outcome.phase is Phase.STOPPED and not job.cancel_requested:
            self.launcher.forget(name)  # stopped from outside, at a reboot say: it goes on from its checkpoint
            self._launch(job)
        else:
            self._end(job, outcome, self.launcher.folder(name))

    def _end(self, job: Job, outcome: Outcome, folder: Path) -> None:
        """Take in what the attempt left, and move the job, in one transaction."""
        try:
            with self.database.transaction() as db:
                events.ingest(db, job.id, job.attempt, _left_behind(folder))
                policy = self._move(db, job, outcome, folder)
        except Stale as stale:
            log.warning("a stale write was refused: %s", stale)
            return
        if policy is not None:
            self.on_success(policy, job.tenant)

    def _move(self, db: Session, job: Job, outcome: Outcome, folder: Path) -> str | None:
        """The job's last step; the policy's id if there is one."""
        if outcome.phase is Phase.SUCCEEDED:
            try:
                return self._finish(db, job, Manifest.model_validate_json((folder / MANIFEST).read_text()), folder)
            except ValidationError as error:
                jobs.fail(db, job, _error(f"the attempt's manifest cannot be read: {error}", "bad_manifest"))
        elif job.cancel_requested:
            jobs.stopped(db, job)
        else:
            jobs.fail(db, job, outcome.error or _error("the attempt failed", "worker_error"))
        return None

    def _finish(self, db: Session, job: Job, manifest: Manifest, folder: Path) -> str:
        policy = registry.policy_id(job, jobs.spec_of(job), manifest.base_model, self.settings.organization)
        jobs.finish(db, job, model=policy, trained_tokens=manifest.trained_tokens)
        registry.register(db, job, manifest, folder, policy)
        return policy

    def _claimed(self) -> list[Job]:
        """Claim queued jobs, oldest first, while the slots last; say to the others what they wait for."""
        claimed = []
        with self.database.transaction() as db:
            unfinished = jobs.unfinished(db)
            holding = [job for job in unfinished if job.status is Status.RUNNING]
            waiting = [job for job in unfinished if job.status is Status.QUEUED]
            if waiting and waiting[0].slots > self.settings.slots:
                jobs.refuse(db, waiting.pop(0), self.settings.slots)
            while waiting and self._fits(waiting[0], holding):
                job = waiting.pop(0)
                if jobs.claim(db, job):
                    holding.append(job)
                    claimed.append(job)
            for place, job in enumerate(waiting):
                jobs.explain(db, job, self._why(job, holding, place))
        return claimed

    def _fits(self, job: Job, holding: list[Job]) -> bool:
        return job.slots + sum(other.slots for other in holding) <= self.settings.slots

    def _why(self, job: Job, holding: list[Job], place: int) -> str:
        own = [other.id for other in holding if other.tenant == job.tenant]
        holders = ", ".join(own + ["other tenants"] * (len(own) < len(holding)))
        ahead = f"; {place} older jobs wait before it" if place else ""
        return f"needs {job.slots} of {self.settings.slots} slots, held by {holders}{ahead}"

    def _launch(self, job: Job) -> None:
        try:
            with self.database.snapshot() as db:
                assignment = self._assignment(db, job)
            token = keys.attempt_token(self.settings.secret, job.id, job.attempt)
            self.launcher.launch(assignment, slots=job.slots, token=token)
        except (Refusal, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            with self.database.transaction() as db:
                jobs.fail(db, job, _error(f"the attempt could not be started: {why}", "launch_failed"))

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
        file = db.get(File, file_id)
        if file is None or file.tenant != job.tenant:
            raise Refusal(f"file {file_id} was deleted before the job started")
        return self.settings.files / file.id


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
