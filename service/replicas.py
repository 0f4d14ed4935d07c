"""Several services on one machine: each holds a number, PostgreSQL lets them share, SQLite does not."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import select

from service.db import Database, driven, insert_once
from service.db.tables import Home
from service.errors import Refusal
from service.settings import Settings

MOST = 64


@contextmanager
def place(settings: Settings) -> Iterator[int]:
    """Hold the lowest free number over the home folder; the others may be held by other services if they share.

    Raises Refusal for a second service on one SQLite file: it would not see what the first one writes in time.
    """
    url = driven(settings.database)
    with ExitStack() as held:
        if url.get_backend_name() == "sqlite":
            lock = Path(f"{url.database}.lock")
            if not _locked(lock, held):
                raise Refusal(
                    f"another prefserve runs on {lock.with_suffix('')}; several at once need PostgreSQL "
                    "(PREFSERVE_DATABASE_URL=postgresql://…)"
                )
        yield _number(settings.home, held)


def check_home(database: Database, secret: bytes) -> None:
    """Tie the database to this home folder. Raises Refusal if it belongs to another: files and attempts lie there."""
    mine = hashlib.sha256(b"home/" + secret).hexdigest()
    with database.snapshot() as db:
        known = db.scalar(select(Home.id))
    if known is None:
        with database.transaction() as db:
            insert_once(db, Home, {"id": mine})
            known = db.scalar(select(Home.id))
    if known != mine:
        raise Refusal("this database belongs to another home folder; services that share it must share that folder too")


def _number(home: Path, held: ExitStack) -> int:
    folder = home / "replicas"
    folder.mkdir(exist_ok=True, mode=0o700)
    for number in range(MOST):
        if _locked(folder / f"{number}.lock", held):
            return number
    raise Refusal(f"{MOST} services run on {home} already")


def _locked(path: Path, held: ExitStack) -> bool:
    lock = path.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return False
    held.enter_context(lock)
    return True
