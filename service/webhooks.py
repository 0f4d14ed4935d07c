"""Webhooks: where tenants are told of their jobs' ends, and the outbox in which each telling waits.

A delivery is written in the transaction that ends the job, and sent until it is answered or given up: at least once,
always under the same `webhook-id`. Signed as Standard Webhooks say: HMAC-SHA256 over `id.timestamp.body`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from service import ids, pages
from service.db.clock import clock
from service.db.tables import Delivery, Job, WebhookEndpoint, now
from service.errors import Invalid, NotFound
from service.states import Status

EVENT_TYPES = ("fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled")
MOST = 20  # endpoints of a tenant
#: the next try comes after these seconds; after the last one it is given up
PAUSES = (5, 30, 120, 600, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
#: how long a try that was begun keeps others from beginning one
TRY_SECONDS = 60.0
#: how long a delivery that has ended is kept
KEPT_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Due:
    """A delivery whose time has come, with where it goes."""

    delivery: Delivery
    endpoint: WebhookEndpoint


def create(db: Session, *, tenant: str, name: str, url: str, event_types: list[str]) -> WebhookEndpoint:
    """A new endpoint. Invalid past the number that a tenant may have."""
    if len(listed(db, pages.Page(MOST), tenant=tenant).rows) == MOST:
        raise Invalid(f"a tenant has {MOST} webhook endpoints at most", param="url")
    row = WebhookEndpoint(id=ids.new("we"), tenant=tenant, name=name, url=url, event_types=event_types)
    db.add(row)
    db.flush()
    return row


def get(db: Session, endpoint_id: str, *, tenant: str) -> WebhookEndpoint:
    """The caller's endpoint; NotFound for a stranger's."""
    mine = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.tenant == tenant)
    if (row := db.scalar(mine)) is None:
        raise NotFound(f"there is no webhook endpoint {endpoint_id!r}", param="webhook_endpoint_id")
    return row


def listed(db: Session, page: pages.Page, *, tenant: str) -> pages.Slice[WebhookEndpoint]:
    """The caller's endpoints."""
    return pages.cut(db, select(WebhookEndpoint).where(WebhookEndpoint.tenant == tenant), WebhookEndpoint, page)


def announce(db: Session, job: Job, status: Status) -> None:
    """Put a job's end into the outbox, once for each endpoint that asked for it."""
    kind = f"fine_tuning.job.{status.value}"
    endpoints = db.scalars(select(WebhookEndpoint).where(WebhookEndpoint.tenant == job.tenant))
    for endpoint in endpoints:
        if kind in endpoint.event_types:
            db.add(telling(endpoint, kind, {"id": job.id}))


def telling(endpoint: WebhookEndpoint, kind: str, data: dict[str, Any]) -> Delivery:
    """What an endpoint is told; not yet in the outbox."""
    event_id = ids.new("evt")
    body = {"id": event_id, "object": "event", "created_at": now(), "type": kind, "data": data}
    return Delivery(id=event_id, endpoint=endpoint.id, body=json.dumps(body))


def any_due(db: Session) -> bool:
    """Whether the outbox holds something to be tried now."""
    return db.scalar(select(Delivery.id).where(*_ready()).limit(1)) is not None


def take(db: Session, most: int = 20) -> list[Due]:
    """Deliveries to be tried now, each by one service only."""
    ready = select(Delivery.id).where(*_ready()).order_by(Delivery.due_at).limit(most)
    chosen = list(db.scalars(ready.with_for_update(skip_locked=True)))
    if not chosen:
        return []
    begun = update(Delivery).where(Delivery.id.in_(chosen))
    db.connection().execute(begun.values(tries=Delivery.tries + 1, due_at=clock() + TRY_SECONDS))
    both = select(Delivery, WebhookEndpoint).join(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint)
    return [Due(*row) for row in db.execute(both.where(Delivery.id.in_(chosen)))]


def settle(db: Session, delivery: Delivery, *, delivered: bool, answer: str) -> None:
    """Write down how a try ended, unless another try has begun since."""
    values: dict[str, Any] = {"answer": answer[:500]}
    if delivered or delivery.tries > len(PAUSES):
        values["ended_at"] = now()
    else:
        values["due_at"] = clock() + float(PAUSES[delivery.tries - 1])
    this = Delivery.id == delivery.id, Delivery.tries == delivery.tries, Delivery.ended_at.is_(None)
    db.connection().execute(update(Delivery).where(*this).values(values))


def sweep(db: Session) -> None:
    """Forget deliveries that ended long ago."""
    db.execute(delete(Delivery).where(Delivery.ended_at < now() - KEPT_SECONDS))


def _ready() -> tuple[ColumnElement[bool], ...]:
    return Delivery.ended_at.is_(None), Delivery.due_at <= clock()


def secret(service_secret: bytes, endpoint: WebhookEndpoint) -> str:
    """The endpoint's signing secret, `whsec_…`: derived, so that nothing in the database can sign."""
    named = f"webhook/{endpoint.id}/{endpoint.generation}"
    return "whsec_" + base64.b64encode(hmac.new(service_secret, named.encode(), hashlib.sha256).digest()).decode()


def signed(due: Due, service_secret: bytes) -> dict[str, str]:
    """The headers of a try: id, time, signature."""
    key = base64.b64decode(secret(service_secret, due.endpoint).removeprefix("whsec_"))
    stamp = str(int(time.time()))
    content = f"{due.delivery.id}.{stamp}.{due.delivery.body}"
    signature = base64.b64encode(hmac.new(key, content.encode(), hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "user-agent": "prefserve",
        "webhook-id": due.delivery.id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }
