"""Tool calls, policies, and the processes that serve them."""

from alembic import op

from svc_kit.event_log import create_log_head
from svc_kit.outbox import create_outbox

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    create_log_head(op)
    create_outbox(op)
    op.execute(
        """
        CREATE TABLE tool_call (
            tenant text NOT NULL,
            call_id uuid NOT NULL,
            task_id uuid NOT NULL,
            step_key text NOT NULL,
            attempt integer NOT NULL,
            agent text NOT NULL,
            agent_version text NOT NULL,
            agent_digest text NOT NULL,
            tool text NOT NULL,
            tool_version text NOT NULL,
            tool_digest text NOT NULL,
            argument_digest text NOT NULL,
            worker text NOT NULL,
            submitters jsonb NOT NULL,
            status text NOT NULL CHECK (status IN ('RUNNING', 'COMPLETED', 'FAILED', 'REFUSED', 'UNKNOWN')),
            reason text NOT NULL,
            message text NOT NULL,
            verdicts jsonb NOT NULL,
            policy_ids text[] NOT NULL,
            owner uuid,
            audit_event uuid NOT NULL,
            audit_index bigint,
            create_time timestamptz NOT NULL,
            end_time timestamptz,
            isolation text NOT NULL,
            result_json text,
            is_error boolean NOT NULL,
            error_class text NOT NULL,
            error_message text NOT NULL,
            limit_name text NOT NULL,
            receipt_key text,
            receipt_payload bytea,
            receipt_signature bytea,
            PRIMARY KEY (tenant, call_id),
            CHECK ((status = 'RUNNING') <= (owner IS NOT NULL AND end_time IS NULL)),
            CHECK ((status IN ('COMPLETED', 'FAILED')) <= (end_time IS NOT NULL AND audit_index IS NOT NULL))
        )
        """
    )
    op.execute("CREATE INDEX tool_call_newest ON tool_call (tenant, create_time DESC, call_id DESC)")
    op.execute("CREATE INDEX tool_call_task ON tool_call (tenant, task_id, create_time DESC, call_id DESC)")
    op.execute("CREATE INDEX tool_call_running ON tool_call (owner) WHERE status = 'RUNNING'")
    op.execute(
        """
        CREATE FUNCTION tool_call_ended() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'an ended call never changes'; END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER tool_call_ended BEFORE UPDATE ON tool_call FOR EACH ROW
        WHEN (OLD.status IN ('COMPLETED', 'FAILED')) EXECUTE FUNCTION tool_call_ended()
        """
    )
    op.execute(
        """
        CREATE TABLE audit_payload (
            event_id uuid PRIMARY KEY,
            part text NOT NULL,
            content_type text NOT NULL,
            body bytea NOT NULL
        )
        """
    )
    op.execute(
        """
        CREATE TABLE policy (
            tenant text NOT NULL,
            policy_id text COLLATE "C" NOT NULL,
            cedar text NOT NULL,
            description text NOT NULL,
            create_time timestamptz NOT NULL,
            creator text NOT NULL,
            etag text NOT NULL,
            PRIMARY KEY (tenant, policy_id)
        )
        """
    )
    op.execute("CREATE TABLE policy_head (tenant text PRIMARY KEY, revision bigint NOT NULL)")
    op.execute(
        """
        CREATE TABLE gateway (
            incarnation uuid PRIMARY KEY,
            slot text NOT NULL,
            beat_time timestamptz NOT NULL
        )
        """
    )
