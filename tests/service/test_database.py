"""The schema that migrations make is the one that the tables say."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.db import Database
from service.db.tables import Table


def test_migrations_lead_to_the_tables(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate()
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []


def test_migrating_twice_changes_nothing(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate()
    database.migrate()


def test_a_block_that_raises_leaves_nothing_behind(tmp_path):
    from service import keys

    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    database.migrate()
    try:
        with database.transaction() as db:
            keys.create(db, tenant="ada", name="x")
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    with database.snapshot() as db:
        assert keys.everything(db) == []
