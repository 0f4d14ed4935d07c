"""Policies whose weights are merged, and adapters that go on them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("policies") as policies:
        policies.add_column(sa.Column("kind", sa.String(length=16), nullable=False, server_default="adapter"))
        policies.add_column(sa.Column("digest", sa.String(length=64), nullable=True))
        policies.add_column(sa.Column("merged", sa.String(length=256), nullable=True))
        policies.create_foreign_key("fk_policies_merged", "policies", ["merged"], ["id"])
        policies.alter_column("rank", existing_type=sa.Integer(), nullable=True)
