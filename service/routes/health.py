"""Whether the service lives and takes work: the two open paths."""

from __future__ import annotations

from fastapi import APIRouter
from sqlalchemy import text

from service.errors import Unavailable
from service.routes import Parts, Reading

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
def readyz(parts: Parts, db: Reading) -> dict[str, str]:
    """The database answers and the scheduler runs; engines start on demand and have their own list."""
    db.execute(text("SELECT 1"))
    if not parts.scheduling:
        raise Unavailable("the scheduler is not running", code="not_ready")
    return {"status": "ready"}
