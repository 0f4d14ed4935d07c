"""Credentials: API keys of tenants (kept as hashes, shown once) and tokens of attempts (derived, never kept)."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service import ids
from service.db.tables import ApiKey, now
from service.errors import NotFound


def create(db: Session, *, tenant: str, name: str) -> tuple[ApiKey, str]:
    """A new key and its text, which cannot be had again."""
    text = f"sk-{secrets.token_urlsafe(32)}"
    key = ApiKey(id=ids.new("key"), tenant=tenant, name=name, sha256=_digest(text), hint=f"sk-…{text[-4:]}")
    db.add(key)
    db.flush()
    return key, text


def find(db: Session, text: str) -> ApiKey | None:
    """The key with this text, unless revoked."""
    return db.scalar(select(ApiKey).where(ApiKey.sha256 == _digest(text), ApiKey.revoked_at.is_(None)))


def everything(db: Session) -> list[ApiKey]:
    """All keys, oldest first."""
    return list(db.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))


def revoke(db: Session, key_id: str) -> None:
    """End a key; it is refused from the next request on."""
    alive = update(ApiKey).where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)).values(revoked_at=now())
    if db.connection().execute(alive).rowcount == 0:
        raise NotFound(f"there is no active key {key_id}")


def attempt_token(secret: bytes, job: str, attempt: int) -> str:
    """The one attempt's bearer token: good for its events, for nothing else, and only while it is current."""
    return hmac.new(secret, f"{job}-a{attempt}".encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
