"""Both databases: the schema that migrations make is the one that the tables say, and transactions are."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from service import keys
from service.db import Database, insert_once
from service.db.clock import clock
from service.db.tables import ApiKey, Home, Table, now
from service.errors import Refusal


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """A database without a schema."""
    shared = request.param == "postgresql"
    url = request.getfixturevalue("postgres").empty() if shared else f"sqlite:///{tmp_path / 'x.db'}"
    database = Database(url)
    yield database
    database.close()


@pytest.fixture
def database(empty):
    empty.migrate()
    return empty


def test_migrations_lead_to_the_tables(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_several_that_migrate_at_once_and_again_agree(empty):
    if not empty.shared:
        pytest.skip("SQLite has one service at a time")
    threads = [
        threading.Thread(target=Database(empty.url.render_as_string(hide_password=False)).migrate) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    empty.migrate()
    with empty.snapshot() as db:
        assert keys.everything(db) == []


def test_migrating_twice_changes_nothing(database):
    database.migrate()


def test_a_block_that_raises_leaves_nothing_behind(database):
    def interrupted():
        with database.transaction() as db:
            keys.create(db, tenant="ada", name="x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with database.snapshot() as db:
        assert keys.everything(db) == []


def test_a_snapshot_is_one_state_however_long_it_looks(database):
    with database.snapshot() as db:
        before = len(keys.everything(db))
        with database.transaction() as writing:
            keys.create(writing, tenant="ada", name="x")
        assert len(list(db.scalars(select(ApiKey)))) == before
    with database.snapshot() as db:
        assert len(keys.everything(db)) == before + 1


def test_a_row_whose_key_is_taken_is_not_inserted(database):
    with database.transaction() as db:
        assert insert_once(db, Home, {"id": "a"}) is True
        assert insert_once(db, Home, {"id": "b"}) is False
        assert db.scalar(select(Home.id)) == "a"


def test_the_databases_clock_counts_seconds_of_the_epoch_with_fractions(database):
    with database.snapshot() as db:
        assert abs(db.scalar(select(clock())) - now()) < 5
        assert db.scalar(select(clock() - clock())) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("url", "words"), [("mysql://x/y", "names mysql"), ("no url", "not a database URL")])
def test_a_database_that_is_neither_is_refused(url, words):
    with pytest.raises(Refusal, match=words):
        Database(url)


def test_a_database_that_does_not_answer_is_one_sentence(tmp_path):
    with pytest.raises(Refusal, match="does not answer"):
        Database(f"postgresql://postgres@/x?host={tmp_path}").migrate()
