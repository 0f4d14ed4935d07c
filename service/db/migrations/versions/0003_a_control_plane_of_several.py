"""Leases, retries, pauses, idempotent requests, expiring files, webhooks."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("files") as files:
        files.add_column(sa.Column("expires_at", sa.Integer(), nullable=True))

    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("not_before", sa.Integer(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("lease_owner", sa.String(length=64), nullable=True))
        jobs.add_column(sa.Column("lease_until", sa.Double(), nullable=False, server_default="0"))
        jobs.add_column(sa.Column("root", sa.String(), nullable=True))
        jobs.add_column(sa.Column("idempotency_key", sa.String(length=255), nullable=True))
        jobs.add_column(sa.Column("request", sa.String(length=64), nullable=True))
        jobs.add_column(sa.Column("retried", sa.Boolean(), nullable=False, server_default=sa.false()))
        jobs.add_column(sa.Column("result_file", sa.String(length=64), nullable=True))
    op.create_index("ix_jobs_idempotency", "jobs", ["tenant", "idempotency_key"], unique=True)
    op.create_index("ix_jobs_request", "jobs", ["request"])

    op.create_table(
        "home",
        sa.Column("only", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("only"),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("event_types", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_webhook_endpoints_tenant", "webhook_endpoints", ["tenant"])

    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("endpoint", sa.String(length=64), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Integer(), nullable=True),
        sa.Column("answer", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["endpoint"], ["webhook_endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_deliveries_endpoint", "deliveries", ["endpoint"])
    op.create_index("ix_deliveries_due", "deliveries", ["ended_at", "due_at"])
