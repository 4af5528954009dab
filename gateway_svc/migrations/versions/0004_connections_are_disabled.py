"""A connection can be switched off."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the switch."""
    op.execute("ALTER TABLE connection ADD COLUMN disabled boolean NOT NULL DEFAULT false")
