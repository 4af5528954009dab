"""Indexes by which entries are searched, newest first."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("agent", "tool", "type", "actor"):
        op.execute(f"CREATE INDEX entry_by_{column} ON entry (log_id, {column}, recorded_time, leaf_index)")
    op.execute("CREATE INDEX entry_by_time ON entry (log_id, recorded_time, leaf_index)")
