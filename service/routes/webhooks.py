"""`/v1/webhook_endpoints`, as the official client uses it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from service import webhooks
from service.db.tables import WebhookEndpoint
from service.outgoing import check_url
from service.pages import Page
from service.routes import Caller, Db, Parts, Reading
from service.views import Deleted, ListOf, View

router = APIRouter(prefix="/v1", tags=["webhooks"])

EventType = Literal["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


class Asked(BaseModel):
    """What a caller sets of an endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=128)
    url: str = Field(min_length=1, max_length=2048)
    event_types: list[EventType] = Field(min_length=1, max_length=len(webhooks.EVENT_TYPES))


class Changed(BaseModel):
    """What a caller changes of an endpoint; null is no change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = Field(None, min_length=1, max_length=128)
    url: str | None = Field(None, min_length=1, max_length=2048)
    event_types: list[EventType] | None = Field(None, min_length=1, max_length=len(webhooks.EVENT_TYPES))


class Endpoint(View):
    """Where a tenant is told of its jobs' ends."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    name: str
    url: str
    event_types: list[str]

    @classmethod
    def facts(cls, row: WebhookEndpoint) -> dict[str, Any]:
        """The row's columns that are shown."""
        return {name: getattr(row, name) for name in ("id", "created_at", "name", "url", "event_types")}


class EndpointWithSecret(Endpoint):
    """The same, when its secret is shown: at its making and at each change of the secret."""

    signing_secret: str


class EventTypes(View):
    """What an endpoint can be told."""

    object: Literal["list"] = "list"
    data: list[str]


class Tested(View):
    """How an endpoint answered to a test."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True


class Test(BaseModel):
    """Which event a test pretends."""

    model_config = ConfigDict(frozen=True)

    event_type: EventType = "fine_tuning.job.succeeded"


PLAIN = Test()


@router.get("/webhook_event_types")
def event_types() -> EventTypes:
    """What there is to be told."""
    return EventTypes(data=list(webhooks.EVENT_TYPES))


@router.post("/webhook_endpoints")
def create(asked: Asked, caller: Caller, db: Db, parts: Parts) -> EndpointWithSecret:
    """Be told of jobs' ends at a URL; the answer holds the signing secret, which is not shown again."""
    check_url(asked.url, parts.settings.outgoing_networks, param="url")
    row = webhooks.create(db, tenant=caller.tenant, **asked.model_dump())
    return EndpointWithSecret(**Endpoint.facts(row), signing_secret=webhooks.secret(parts.settings.secret, row))


@router.get("/webhook_endpoints")
def listing(
    caller: Caller, db: Reading, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> ListOf[Endpoint]:
    """The caller's endpoints."""
    found = webhooks.listed(db, Page(limit, after), tenant=caller.tenant)
    return ListOf.of([Endpoint(**Endpoint.facts(row)) for row in found.rows], has_more=found.has_more)


@router.get("/webhook_endpoints/{endpoint_id}")
def retrieve(endpoint_id: str, caller: Caller, db: Reading) -> Endpoint:
    """One endpoint."""
    return Endpoint(**Endpoint.facts(webhooks.get(db, endpoint_id, tenant=caller.tenant)))


@router.post("/webhook_endpoints/{endpoint_id}")
def change(endpoint_id: str, changed: Changed, caller: Caller, db: Db, parts: Parts) -> Endpoint:
    """Change an endpoint; what waits to be delivered goes to the new URL."""
    row = webhooks.get(db, endpoint_id, tenant=caller.tenant)
    if changed.url is not None:
        check_url(changed.url, parts.settings.outgoing_networks, param="url")
    for name, value in changed.model_dump(exclude_none=True).items():
        setattr(row, name, value)
    return Endpoint(**Endpoint.facts(row))


@router.delete("/webhook_endpoints/{endpoint_id}")
def delete(endpoint_id: str, caller: Caller, db: Db) -> Deleted:
    """Forget an endpoint and what it was still to be told."""
    db.delete(webhooks.get(db, endpoint_id, tenant=caller.tenant))
    return Deleted(id=endpoint_id, object="webhook_endpoint.deleted")


@router.post("/webhook_endpoints/{endpoint_id}/rotate_secret")
def rotate_secret(endpoint_id: str, caller: Caller, db: Db, parts: Parts) -> EndpointWithSecret:
    """Replace the signing secret; the old one signs nothing any more."""
    row = webhooks.get(db, endpoint_id, tenant=caller.tenant)
    row.generation += 1
    return EndpointWithSecret(**Endpoint.facts(row), signing_secret=webhooks.secret(parts.settings.secret, row))


@router.post("/webhook_endpoints/{endpoint_id}/test")
async def try_out(endpoint_id: str, caller: Caller, parts: Parts, asked: Test = PLAIN) -> Tested:
    """Send a signed event of a job that does not exist, now and once."""
    kind = asked.event_type
    status = await run_in_threadpool(_try, endpoint_id, kind, caller.tenant, parts)
    return Tested(webhook_endpoint_id=endpoint_id, event_type=kind, status_code=status)


def _try(endpoint_id: str, kind: str, tenant: str, parts: Parts) -> int:
    with parts.database.snapshot() as db:
        endpoint = webhooks.get(db, endpoint_id, tenant=tenant)
    return parts.courier.test(endpoint, kind)
