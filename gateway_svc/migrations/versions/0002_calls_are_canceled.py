"""A running call can be asked to end, at whichever gateway runs it."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add who asked."""
    op.execute("ALTER TABLE tool_call ADD COLUMN cancel_by text")
