"""Approvals: a person's yes or no to exactly one call."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add approvals, and which one a call waits for or was started with."""
    op.execute("ALTER TABLE tool_call ADD COLUMN approval_id uuid")
    op.execute(
        """
        CREATE TABLE approval (
            tenant text NOT NULL,
            approval_id uuid NOT NULL,
            status text NOT NULL
                CHECK (status IN ('PENDING', 'APPROVED', 'DENIED', 'EXPIRED', 'CANCELED')),
            call_id uuid NOT NULL,
            task_id uuid NOT NULL,
            step_key text NOT NULL,
            agent text NOT NULL,
            agent_version text NOT NULL,
            agent_digest text NOT NULL,
            tool text NOT NULL,
            tool_version text NOT NULL,
            tool_digest text NOT NULL,
            argument_digest text NOT NULL,
            arguments_json text NOT NULL,
            submitters text[] NOT NULL,
            policy_ids text[] NOT NULL,
            decider_role text NOT NULL,
            create_time timestamptz NOT NULL,
            expire_time timestamptz NOT NULL,
            decide_time timestamptz,
            decider text NOT NULL,
            decision_reason text NOT NULL,
            used_by uuid,
            told boolean NOT NULL,
            position bigint NOT NULL,
            PRIMARY KEY (tenant, approval_id)
        )
        """
    )
    op.execute("CREATE INDEX approval_by_call ON approval (tenant, call_id, create_time)")
    op.execute("CREATE UNIQUE INDEX approval_open ON approval (tenant, call_id) WHERE status = 'PENDING'")
    op.execute("CREATE INDEX approval_by_time ON approval (tenant, create_time, approval_id)")
    op.execute("CREATE INDEX approval_by_position ON approval (position)")
    op.execute("CREATE INDEX approval_pending ON approval (expire_time) WHERE status = 'PENDING'")
    op.execute("CREATE INDEX approval_untold ON approval (position) WHERE NOT told")
