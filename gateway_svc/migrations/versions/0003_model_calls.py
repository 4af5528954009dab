"""Connections, and calls of models through them."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add connections, and what a model call has beside a tool call."""
    op.execute(
        """
        ALTER TABLE tool_call
            ADD COLUMN called text NOT NULL DEFAULT 'TOOL' CHECK (called IN ('TOOL', 'MODEL')),
            ADD COLUMN input_tokens bigint,
            ADD COLUMN output_tokens bigint,
            ADD COLUMN cost_micros bigint
        """
    )
    op.execute(
        """
        CREATE TABLE connection (
            tenant text NOT NULL,
            connection_id text COLLATE "C" NOT NULL,
            kind text NOT NULL,
            base_url text NOT NULL,
            models jsonb NOT NULL,
            agents text[] NOT NULL,
            allow_private boolean NOT NULL,
            description text NOT NULL,
            sealed bytea,
            create_time timestamptz NOT NULL,
            update_time timestamptz NOT NULL,
            creator text NOT NULL,
            etag text NOT NULL,
            PRIMARY KEY (tenant, connection_id)
        )
        """
    )
