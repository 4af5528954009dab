"""What an attempt last said of itself stands with the attempt."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("ALTER TABLE attempt ADD COLUMN progress jsonb, ADD COLUMN progress_time timestamptz")
