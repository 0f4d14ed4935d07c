"""Which service follows which running attempt: a lease by the database's clock, taken over when it has run out."""

from __future__ import annotations

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from service.db import Database
from service.db.clock import clock
from service.db.tables import Job
from service.states import Status


def take(database: Database, owner: str, seconds: float) -> list[Job]:
    """Renew what `owner` follows, take over what nobody does any more; the running jobs that are its own now.

    A lease is written when half of it has passed, so that most looks only read.
    """
    running = Job.status == Status.RUNNING
    lapsed = or_(Job.lease_owner.is_(None), Job.lease_until < clock())
    wanted = and_(running, or_(lapsed, and_(Job.lease_owner == owner, Job.lease_until < clock() + seconds / 2)))
    with database.snapshot() as db:
        due = db.scalar(select(Job.id).where(wanted).limit(1)) is not None
    if due:
        with database.transaction() as db:
            taken = update(Job).where(wanted).values(lease_owner=owner, lease_until=clock() + seconds)
            db.connection().execute(taken)
    with database.snapshot() as db:
        mine = select(Job).where(running, Job.lease_owner == owner, Job.lease_until > clock())
        return list(db.scalars(mine.order_by(Job.created_at, Job.id)))


def release(db: Session, owner: str) -> None:
    """Let another service follow at once what this one followed."""
    db.connection().execute(update(Job).where(Job.lease_owner == owner).values(lease_owner=None, lease_until=0.0))
