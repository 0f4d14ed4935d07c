"""The database: one engine, transactions, migrations, and the little that SQLite and PostgreSQL do not share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.orm import Session

from service.errors import Refusal

#: names the lock that only migrations take, among PostgreSQL's advisory locks
MIGRATING = 7_306_001


class Database:
    """Transactions over SQLite (WAL, durable commits; one service at a time) or PostgreSQL (any number)."""

    def __init__(self, url: str) -> None:
        self.url = driven(url)
        self.shared = self.url.get_backend_name() == "postgresql"
        self.engine = _shared(self.url) if self.shared else _embedded(self.url)
        # a snapshot is one consistent state: SQLite's transactions are, PostgreSQL's only when asked
        consistent = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.shared else {}
        self._reading = self.engine.execution_options(**consistent)
        self._writing = self.engine.execution_options(begin="BEGIN IMMEDIATE")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write; it commits when the block ends and rolls back when it raises."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session that only reads, one consistent state, without keeping writers waiting."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    def migrate(self) -> None:
        """Bring the schema to this version's; of several that start at once, one does it and the others wait."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self._connected() as connection:
            if self.shared:
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATING})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            connection = self.engine.connect()
        except OperationalError as error:
            raise Refusal(f"the database does not answer: {error.orig}") from error
        with connection:
            yield connection


def driven(url: str) -> URL:
    """The URL with the driver we bring. Raises Refusal for a database that is neither of the two."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise Refusal("PREFSERVE_DATABASE_URL is not a database URL: postgresql://… or sqlite:///…") from error
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise Refusal(f"PREFSERVE_DATABASE_URL names {backend}; use postgresql://… or sqlite:///…")
    return parsed.set(drivername="postgresql+psycopg") if backend == "postgresql" else parsed


def insert_once(db: Session, table: type[Any], row: Mapping[str, Any]) -> bool:
    """Insert a row unless one of its unique keys is taken; whether it was inserted.

    On PostgreSQL this waits for another transaction that is inserting the same key.
    """
    insert: Any = postgresql.insert if db.get_bind().dialect.name == "postgresql" else sqlite.insert
    key = inspect(table).primary_key[0]
    inserted = insert(table).values(dict(row)).on_conflict_do_nothing().returning(key)
    return db.connection().execute(inserted).first() is not None


def is_away(error: DBAPIError) -> bool:
    """Whether a statement failed because the database is gone, full or busy, not because of what was asked."""
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlite_errorname", None)
    if code is None:
        return isinstance(error, OperationalError)
    return str(code).startswith(("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN"))


def _embedded(url: URL) -> Engine:
    engine = create_engine(url)
    event.listen(engine, "connect", _durable_and_concurrent)
    event.listen(engine, "begin", _begin)
    return engine


def _shared(url: URL) -> Engine:
    # as many connections as there are threads that answer; one that died with the server is replaced unseen
    return create_engine(url, pool_size=10, max_overflow=40, pool_pre_ping=True)


def _durable_and_concurrent(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by its own rules
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    # a writer takes the lock first: read-then-write in a deferred transaction fails when another wrote in between
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
