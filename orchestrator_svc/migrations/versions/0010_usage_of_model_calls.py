"""What the model calls of a task have used up stands with the task."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("ALTER TABLE task ADD COLUMN usage jsonb")
