"""Connections to HTTP origins, for tools."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add what tools may do through a connection, and where its credential goes."""
    op.execute(
        """
        ALTER TABLE connection
            ADD COLUMN methods text[] NOT NULL DEFAULT '{}',
            ADD COLUMN credential_header text NOT NULL DEFAULT ''
        """
    )
