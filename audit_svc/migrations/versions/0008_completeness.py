"""By which it is known what producers have numbered and the log has not received."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "CREATE INDEX entry_by_producer ON entry (producer, producer_sequence) WHERE producer_sequence > 0"
    )
    op.execute(
        """
        CREATE TABLE producer_progress (
            producer text PRIMARY KEY,
            complete_to bigint NOT NULL CHECK (complete_to >= 0)
        )
        """
    )
    op.execute(
        "CREATE TRIGGER append_only BEFORE DELETE OR TRUNCATE ON producer_progress"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("ALTER TABLE producer_progress ENABLE ALWAYS TRIGGER append_only")
