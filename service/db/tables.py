"""The tables. Ids are random, times are whole seconds since the epoch, every row of a caller's has its tenant."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, Enum, ForeignKey, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.states import Status

#: SQLite numbers rows by itself only when the type is exactly INTEGER.
Serial = BigInteger().with_variant(Integer, "sqlite")


def now() -> int:
    """Seconds since the epoch."""
    return int(time.time())


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        Status: Enum(Status, native_enum=False, length=16, values_callable=list),
    }


class ApiKey(Table):
    """A bearer key; only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[int] = mapped_column(default=now)
    revoked_at: Mapped[int | None]


class File(Table):
    """An upload; its bytes lie in the files folder under its id."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(default=now)
    #: from then on it is not there any more
    expires_at: Mapped[int | None]


class BaseModelRow(Table):
    """A base model that the operator allows: a name for a folder whose content is known by digest."""

    __tablename__ = "base_models"

    name: Mapped[str] = mapped_column(String(96), primary_key=True)
    path: Mapped[str]
    source: Mapped[str]
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(default=now)


class Policy(Table):
    """A finished job's model, served under its public id: an adapter, or merged weights."""

    __tablename__ = "policies"

    id: Mapped[str] = mapped_column(String(256), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    base: Mapped[str] = mapped_column(ForeignKey("base_models.name"))
    kind: Mapped[str] = mapped_column(String(16), default="adapter")
    #: the attempt's name, the adapter's inside its engine: used once and never again
    adapter: Mapped[str] = mapped_column(String(128))
    path: Mapped[str]
    #: of an adapter
    rank: Mapped[int | None]
    #: of merged weights, as base models have it
    digest: Mapped[str | None] = mapped_column(String(64))
    #: the policy on whose merged weights an adapter goes; none: on the base model's
    merged: Mapped[str | None] = mapped_column(ForeignKey("policies.id"))
    created_at: Mapped[int] = mapped_column(default=now)
    deleted_at: Mapped[int | None]


class Job(Table):
    """A spec with owner and status; `attempt` counts its tries and fences off what older tries still write."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]]
    status: Mapped[Status]
    reason: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)
    slots: Mapped[int]
    priority: Mapped[int] = mapped_column(default=0)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    pause_requested: Mapped[bool] = mapped_column(default=False)
    #: attempts that the infrastructure ended, not the job; the next one waits until `not_before`
    failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[int] = mapped_column(default=0)
    #: the service that follows the running attempt, until `lease_until` by the database's clock
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[float] = mapped_column(Double, default=0.0)
    #: the folder that holds the attempts' folders
    root: Mapped[str | None]
    #: how a repeated request is known: by its key, or by who asked for the same before
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request: Mapped[str | None] = mapped_column(String(64))
    retried: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[int] = mapped_column(default=now)
    started_at: Mapped[int | None]
    finished_at: Mapped[int | None]
    estimated_finish: Mapped[int | None]
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    model: Mapped[str | None] = mapped_column(String(256))
    error: Mapped[dict[str, Any] | None]
    result_file: Mapped[str | None] = mapped_column(String(64))

    __table_args__ = (
        Index("ix_jobs_idempotency", "tenant", "idempotency_key", unique=True),
        Index("ix_jobs_request", "request"),
        Index("ix_jobs_tenant_created", "tenant", "created_at", "id"),
        Index("ix_jobs_status_created", "status", "created_at", "id"),
    )


class Event(Table):
    """What happened in a job: said by the service (no sequence number) or by an attempt (numbered from 1)."""

    __tablename__ = "events"

    number: Mapped[int] = mapped_column(Serial, primary_key=True, autoincrement=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    attempt: Mapped[int]
    sequence: Mapped[int | None]
    created_at: Mapped[int] = mapped_column(default=now)
    level: Mapped[str] = mapped_column(String(8))
    kind: Mapped[str] = mapped_column(String(16))
    message: Mapped[str]
    data: Mapped[dict[str, Any] | None]

    __table_args__ = (
        UniqueConstraint("job", "attempt", "sequence"),
        Index("ix_events_job_kind", "job", "kind", "number"),
    )


class RewardModel(Table):
    """A reward under a name; each change of its settings is a new version, none is used twice."""

    __tablename__ = "reward_models"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    #: every name in it resolved: what it meant when it was stored
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[int] = mapped_column(default=now)
    deleted_at: Mapped[int | None]

    __table_args__ = (UniqueConstraint("tenant", "name", "version"),)


class Annotation(Table):
    """Prompts that a policy answers and a reward model ranks; what is done lies in a file under its id."""

    __tablename__ = "annotations"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    spec: Mapped[dict[str, Any]]
    status: Mapped[Status] = mapped_column(index=True)
    reason: Mapped[str | None]
    prompts: Mapped[int]
    done: Mapped[int] = mapped_column(default=0)
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    file: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[dict[str, Any] | None]
    created_at: Mapped[int] = mapped_column(default=now)
    finished_at: Mapped[int | None]


class Home(Table):
    """The one home folder that this database belongs to; its row is also the lock of those who claim jobs."""

    __tablename__ = "home"

    only: Mapped[int] = mapped_column(primary_key=True, default=1, autoincrement=False)
    id: Mapped[str] = mapped_column(String(64))


class WebhookEndpoint(Table):
    """Where a tenant is told of its jobs' ends; the secret is derived, never kept."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(128))
    url: Mapped[str] = mapped_column(String(2048))
    event_types: Mapped[list[str]] = mapped_column(JSON)
    enabled: Mapped[bool] = mapped_column(default=True)
    #: counts the secrets it has had
    generation: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[int] = mapped_column(default=now)


class Delivery(Table):
    """The outbox: an event that an endpoint is to be told, written in the transaction that made it true."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    endpoint: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), index=True)
    body: Mapped[str]
    tries: Mapped[int] = mapped_column(default=0)
    #: when it is tried next, by the database's clock; a try that is under way has pushed it ahead
    due_at: Mapped[float] = mapped_column(Double, default=0.0)
    #: delivered, or given up
    ended_at: Mapped[int | None]
    answer: Mapped[str | None]

    __table_args__ = (Index("ix_deliveries_due", "ended_at", "due_at"),)
