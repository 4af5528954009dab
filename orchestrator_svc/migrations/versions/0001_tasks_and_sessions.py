"""Tasks with their attempts, steps and events; worker sessions; repeated requests."""

from alembic import op

from svc_kit.event_log import create_log_head
from svc_kit.outbox import create_outbox

revision = "0001"
down_revision = None

# Nothing references `task` by a foreign key: every row below is written under the task's lock or with the
# task itself, and a key check per row would cost more than the row.
_TASK = """
CREATE TABLE task (
    task_id uuid PRIMARY KEY,
    tenant text NOT NULL,
    pool text NOT NULL,
    agent text NOT NULL,
    agent_version text NOT NULL,
    agent_digest text NOT NULL,
    isolation text NOT NULL,
    retry jsonb NOT NULL,
    start_to_close double precision NOT NULL CHECK (start_to_close > 0),
    task_type text NOT NULL,
    labels jsonb NOT NULL,
    submitters jsonb NOT NULL,
    traceparent text NOT NULL,
    retried_from uuid,
    input text NOT NULL,
    result text,
    state text NOT NULL
        CHECK (state IN ('SUBMITTED', 'RUNNING', 'CANCELING', 'COMPLETED', 'FAILED', 'CANCELED')),
    wait_reason text CHECK ((wait_reason IS NOT NULL) = (state = 'SUBMITTED')),
    run_after timestamptz NOT NULL,
    attempt integer NOT NULL,
    failures integer NOT NULL,
    crashes integer NOT NULL,
    error jsonb,
    revision bigint NOT NULL,
    step_count integer NOT NULL,
    session_id uuid CHECK ((session_id IS NOT NULL) = (state IN ('RUNNING', 'CANCELING'))),
    close_by timestamptz CHECK ((close_by IS NULL) = (session_id IS NULL)),
    last_outcome text,
    create_time timestamptz NOT NULL,
    start_time timestamptz,
    end_time timestamptz CHECK ((end_time IS NOT NULL) = (state IN ('COMPLETED', 'FAILED', 'CANCELED')))
) WITH (fillfactor = 70)
"""
_TASK_INDEXES = (
    # Lists, newest first: all, by state, by agent (and state).
    "CREATE INDEX task_newest ON task (tenant, create_time DESC, task_id DESC)",
    "CREATE INDEX task_by_state ON task (tenant, state, create_time DESC, task_id DESC)",
    "CREATE INDEX task_by_agent ON task (tenant, agent, state, create_time DESC, task_id DESC)",
    # What a claim walks along.
    "CREATE INDEX task_runnable ON task (pool, run_after, task_id) WHERE state = 'SUBMITTED'",
    # What a lost session leaves behind, and what runs for too long.
    "CREATE INDEX task_live ON task (session_id) WHERE session_id IS NOT NULL",
    "CREATE INDEX task_close_by ON task (close_by) WHERE close_by IS NOT NULL",
)
# A terminal task never changes: the database holds this for every statement there will ever be.
_TERMINAL = """
CREATE FUNCTION task_is_over() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'task % is % and never changes', OLD.task_id, OLD.state; END $$
"""
_TERMINAL_TRIGGER = """
CREATE TRIGGER task_is_over BEFORE UPDATE ON task FOR EACH ROW
WHEN (OLD.state IN ('COMPLETED', 'FAILED', 'CANCELED')) EXECUTE FUNCTION task_is_over()
"""
_ATTEMPT = """
CREATE TABLE attempt (
    task_id uuid NOT NULL,
    attempt integer NOT NULL,
    tenant text NOT NULL,
    worker text NOT NULL,
    session_id uuid NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    outcome text,
    error jsonb,
    PRIMARY KEY (task_id, attempt)
)
"""
_STEP = """
CREATE TABLE task_step (
    task_id uuid NOT NULL,
    step_key text NOT NULL,
    tenant text NOT NULL,
    ordinal integer NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    status text NOT NULL,
    call_id uuid NOT NULL,
    input_digest text NOT NULL,
    input text NOT NULL,
    output text,
    error jsonb,
    attempt integer NOT NULL,
    start_time timestamptz NOT NULL,
    end_time timestamptz,
    PRIMARY KEY (task_id, step_key),
    UNIQUE (task_id, ordinal)
)
"""
_EVENT = """
CREATE TABLE task_event (
    task_id uuid NOT NULL,
    revision bigint NOT NULL,
    position bigint NOT NULL UNIQUE,
    tenant text NOT NULL,
    type text NOT NULL,
    state text NOT NULL,
    wait_reason text,
    attempt integer NOT NULL,
    detail jsonb,
    time timestamptz NOT NULL,
    PRIMARY KEY (task_id, revision)
)
"""
_IDEMPOTENCY = """
CREATE TABLE idempotency (
    tenant text NOT NULL,
    subject text NOT NULL,
    method text NOT NULL,
    request_id uuid NOT NULL,
    digest text NOT NULL,
    task_id uuid NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (tenant, subject, method, request_id)
)
"""
_SESSION = """
CREATE TABLE worker_session (
    session_id uuid PRIMARY KEY,
    subject text NOT NULL,
    slot text NOT NULL,
    incarnation bigint NOT NULL,
    pools jsonb NOT NULL,
    capacity integer NOT NULL,
    start_time timestamptz NOT NULL,
    lease_until timestamptz NOT NULL,
    end_time timestamptz
)
"""
_CLAIM = """
CREATE TABLE claim (
    claim_id uuid PRIMARY KEY,
    session_id uuid NOT NULL,
    tenant text NOT NULL,
    task_id uuid NOT NULL,
    attempt integer NOT NULL,
    create_time timestamptz NOT NULL
)
"""


def upgrade() -> None:
    create_log_head(op)
    create_outbox(op)
    op.execute(_TASK)
    for index in _TASK_INDEXES:
        op.execute(index)
    op.execute(_TERMINAL)
    op.execute(_TERMINAL_TRIGGER)
    op.execute(_ATTEMPT)
    op.execute(_STEP)
    op.execute(_EVENT)
    op.execute(_IDEMPOTENCY)
    op.execute("CREATE INDEX idempotency_oldest ON idempotency (create_time)")
    op.execute(_SESSION)
    op.execute("CREATE INDEX worker_session_open ON worker_session (lease_until) WHERE end_time IS NULL")
    op.execute("CREATE INDEX worker_session_slot ON worker_session (subject, slot) WHERE end_time IS NULL")
    op.execute("CREATE INDEX worker_session_ended ON worker_session (end_time) WHERE end_time IS NOT NULL")
    op.execute(_CLAIM)
    op.execute("CREATE INDEX claim_oldest ON claim (create_time)")
