"""Connections to models have quotas."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the quotas."""
    op.execute(
        """
        ALTER TABLE connection
            ADD COLUMN max_requests_per_minute integer NOT NULL DEFAULT 0,
            ADD COLUMN max_tokens_per_day bigint NOT NULL DEFAULT 0,
            ADD COLUMN max_cost_micros_per_day bigint NOT NULL DEFAULT 0
        """
    )
