"""What operators limit, and what calls of models set aside."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add limits of calls, and reserves."""
    op.execute(
        """
        CREATE TABLE call_limit (
            tenant text NOT NULL,
            tool text COLLATE "C" NOT NULL,
            max_running integer NOT NULL,
            max_per_minute integer NOT NULL,
            update_time timestamptz NOT NULL,
            updater text NOT NULL,
            PRIMARY KEY (tenant, tool)
        )
        """
    )
    op.execute("ALTER TABLE tool_call ADD COLUMN reserved_tokens bigint, ADD COLUMN reserved_micros bigint")
    op.execute("CREATE INDEX tool_call_model ON tool_call (tenant, tool, create_time) WHERE called = 'MODEL'")
