"""An approval counts decisions alone: answers say whether they are any."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE task_input ADD COLUMN decided boolean NOT NULL DEFAULT false")
    # Whatever has answered an approval that was asked was checked to be a decision.
    op.execute("UPDATE task_input SET decided = true WHERE kind = 'APPROVAL' AND answer IS NOT NULL")
