"""Connections to databases, with the statements that tools may have run."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add statements, and the tools that may use a connection."""
    op.execute(
        """
        ALTER TABLE connection
            ADD COLUMN tool_digests text[] NOT NULL DEFAULT '{}',
            ADD COLUMN statements jsonb NOT NULL DEFAULT '[]'
        """
    )
