"""The database: one engine, transactions, migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session


class Database:
    """Transactions over SQLite (WAL, durable commits) or PostgreSQL."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _durable_and_concurrent)
            event.listen(self.engine, "begin", _begin)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that may write; it commits when the block ends and rolls back when it raises."""
        writing = self.engine.execution_options(begin="BEGIN IMMEDIATE")
        with Session(writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session that only reads, one consistent state, without keeping writers waiting."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def migrate(self) -> None:
        """Bring the schema to this version's."""
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _durable_and_concurrent(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by its own rules
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    # a writer takes the lock first: read-then-write in a deferred transaction fails when another wrote in between
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))
