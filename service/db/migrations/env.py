"""Run by alembic with the connection that `Database.migrate` hands over."""

from alembic import context

from service.db.tables import Table

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
