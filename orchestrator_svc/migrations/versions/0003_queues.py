"""Queues with limits, and the place of each task in them."""

from alembic import op

revision = "0003"
down_revision = "0002"

# Keys are ordered byte by byte: taking turns needs an order, not a language.
_PLACE = """
ALTER TABLE task
    ADD COLUMN queue text COLLATE "C" NOT NULL DEFAULT 'default',
    ADD COLUMN priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
    ADD COLUMN fairness_key text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN concurrency_key text COLLATE "C" NOT NULL DEFAULT ''
"""
_INDEXES = (
    # What claims walk along: from queue to queue, from priority to priority, from key to key.
    (
        "CREATE INDEX task_waiting ON task (pool, tenant, queue, priority DESC, fairness_key,"
        " concurrency_key, run_after, task_id) WHERE state = 'SUBMITTED'"
    ),
    # What runs in a queue, counted against its limits.
    "CREATE INDEX task_running ON task (tenant, queue, concurrency_key) WHERE session_id IS NOT NULL",
    # Who holds a key, when a new task is to be refused for it or takes its place.
    (
        "CREATE INDEX task_of_key ON task (tenant, queue, concurrency_key, create_time)"
        " WHERE concurrency_key <> '' AND end_time IS NULL"
    ),
    # When the next of those that are not due yet will be.
    (
        "CREATE INDEX task_scheduled ON task (pool, run_after)"
        " WHERE wait_reason IN ('SCHEDULED', 'RETRY_BACKOFF')"
    ),
    # How fast a queue gets on.
    "CREATE INDEX task_ended ON task (tenant, queue, end_time) WHERE end_time IS NOT NULL",
)
# Without a row the queue `default` of a tenant is as the defaults here say. What runs is not counted here but
# in the rows of the tasks: nothing can come to differ from them.
_QUEUE = """
CREATE TABLE queue (
    tenant text NOT NULL,
    name text COLLATE "C" NOT NULL,
    pool text NOT NULL,
    description text NOT NULL DEFAULT '',
    paused boolean NOT NULL DEFAULT false,
    keyed boolean NOT NULL DEFAULT false,
    max_running integer CHECK (max_running > 0),
    max_running_per_key integer NOT NULL DEFAULT 1 CHECK (max_running_per_key > 0),
    max_waiting integer CHECK (max_waiting > 0),
    rate_count integer CHECK (rate_count > 0),
    rate_seconds double precision CHECK (rate_seconds > 0),
    rate_burst integer CHECK (rate_burst > 0),
    tokens double precision NOT NULL DEFAULT 0,
    tokens_time timestamptz NOT NULL DEFAULT now(),
    turns text[] NOT NULL DEFAULT array_fill(''::text, ARRAY[10]),
    version bigint NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL DEFAULT now(),
    update_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name),
    CHECK (num_nonnulls(rate_count, rate_seconds, rate_burst) IN (0, 3))
) WITH (fillfactor = 50)
"""


def upgrade() -> None:
    op.execute(_PLACE)
    for index in _INDEXES:
        op.execute(index)
    op.execute("DROP INDEX task_runnable")
    op.execute(_QUEUE)
    # Whom a worker serves, and whether it was told to take nothing more.
    op.execute("ALTER TABLE worker_session ADD COLUMN serves jsonb NOT NULL DEFAULT '[]'")
    op.execute("ALTER TABLE worker_session ADD COLUMN draining boolean NOT NULL DEFAULT false")
