"""Which creations are one and the same: by the caller's key, or as a client's repetition of what it gave up on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

from sqlalchemy import and_, or_, select, text, update
from sqlalchemy.orm import Session

from service.db.tables import Job, now
from service.errors import Invalid
from trainers.spec import JobSpec

#: how long a key, and a request without one, is remembered
KEY_SECONDS, REPEAT_SECONDS = 24 * 3600, 15 * 60


@dataclass(frozen=True)
class Origin:
    """How a creation was asked for. The official client repeats a request without a key, but counts its tries."""

    credential: str
    asked: JobSpec
    key: str | None = None  #: `Idempotency-Key`
    retried: bool = False  #: `x-stainless-retry-count` above 0
    began: int = field(default_factory=now)

    def digest(self) -> str:
        """SHA-256 of who asks and what for, before anything of it was settled."""
        asked = json.dumps([self.credential, self.asked.model_dump(mode="json")], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()


def earlier(db: Session, origin: Origin, digest: str, *, tenant: str) -> Job | None:
    """The job that this request has made already; in the transaction that would make it.

    Raises Invalid when the key came with another body before.
    """
    if origin.key is None:
        return _repeated(db, origin, digest)
    mine = Job.tenant == tenant, Job.idempotency_key == origin.key
    forgotten = update(Job).where(*mine, Job.created_at < now() - KEY_SECONDS).values(idempotency_key=None)
    db.connection().execute(forgotten)
    job = db.scalar(select(Job).where(*mine))
    if job is not None and job.request != digest:
        raise Invalid(
            f"the Idempotency-Key {origin.key!r} came with another body before",
            param="Idempotency-Key",
            code="idempotency_key_reuse",
        )
    return job


def _repeated(db: Session, origin: Origin, digest: str) -> Job | None:
    """A job of the same body: an earlier try's if this is a repetition, a repetition's that overtook this one."""
    if db.get_bind().dialect.name == "postgresql":  # SQLite's writers wait for one another anyway
        number = int.from_bytes(bytes.fromhex(digest[:16]), signed=True)
        db.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
    overtook = and_(Job.retried, Job.created_at >= origin.began)
    meant = or_(Job.created_at >= now() - REPEAT_SECONDS, overtook) if origin.retried else overtook
    return db.scalar(select(Job).where(Job.request == digest, meant).order_by(Job.created_at.desc()).limit(1))
