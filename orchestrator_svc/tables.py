"""The orchestrator's tables, for statements; the migrations make them.

The hot statements work on whole batches and are written as text beside the code that runs them; these
definitions serve the others.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from svc_kit.event_log import log_head_table
from svc_kit.outbox import outbox_table

metadata = sa.MetaData()
log_head = log_head_table(metadata)
outbox = outbox_table(metadata)

_Time = sa.DateTime(timezone=True)

task = sa.Table(
    "task",
    metadata,
    sa.Column("task_id", sa.Uuid, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("agent_version", sa.Text, nullable=False),
    sa.Column("agent_digest", sa.Text, nullable=False),
    sa.Column("isolation", sa.Text, nullable=False),
    sa.Column("retry", JSONB, nullable=False),
    sa.Column("start_to_close", sa.Double, nullable=False),
    sa.Column("task_type", sa.Text, nullable=False),
    sa.Column("labels", JSONB, nullable=False),
    sa.Column("submitters", JSONB, nullable=False),
    sa.Column("traceparent", sa.Text, nullable=False),
    sa.Column("retried_from", sa.Uuid),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("wait_reason", sa.Text),
    sa.Column("run_after", _Time, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("error", JSONB),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("step_count", sa.Integer, nullable=False),
    # Of the live attempt; both are empty while none runs.
    sa.Column("session_id", sa.Uuid),
    sa.Column("close_by", _Time),
    sa.Column("last_outcome", sa.Text),
    sa.Column("create_time", _Time, nullable=False),
    sa.Column("start_time", _Time),
    sa.Column("end_time", _Time),
    # Of the task that waits for a person; of the clocks that run on it, the next one is `due_time`.
    sa.Column("input_kind", sa.Text),
    sa.Column("from_step", sa.Text),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("suspect", sa.Boolean, nullable=False),
    sa.Column("pausing", sa.Boolean, nullable=False),
    sa.Column("dead_lettered", sa.Boolean, nullable=False),
    sa.Column("schedule_to_start", sa.Double),
    sa.Column("schedule_to_close", sa.Double),
    sa.Column("start_by", _Time),
    sa.Column("expires", _Time),
    sa.Column("left_seconds", sa.Double),
    sa.Column("wind_up_by", _Time),
    sa.Column("parent_task_id", sa.Uuid),
    sa.Column("root_task_id", sa.Uuid),
    sa.Column("depth", sa.SmallInteger, nullable=False),
    sa.Column("close_policy", sa.Text),
    # In place of input and result.
    sa.Column("input_blob", sa.Text),
    sa.Column("result_blob", sa.Text),
    sa.Column("due_time", _Time, sa.Computed("least(start_by, expires, close_by, wind_up_by)")),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("fairness_key", sa.Text, nullable=False),
    sa.Column("concurrency_key", sa.Text, nullable=False),
    # What its model calls have used up; empty while there were none.
    sa.Column("usage", JSONB),
    # Set once, of an ended task, when what was written in it was overwritten.
    sa.Column("erase_time", _Time),
)

queue = sa.Table(
    "queue",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    # A task with a fairness or concurrency key has come: from then on its tasks take turns.
    sa.Column("keyed", sa.Boolean, nullable=False),
    sa.Column("max_running", sa.Integer),
    sa.Column("max_running_per_key", sa.Integer, nullable=False),
    sa.Column("max_waiting", sa.Integer),
    # A bucket of rate_burst tokens that rate_count are put into every rate_seconds.
    sa.Column("rate_count", sa.Integer),
    sa.Column("rate_seconds", sa.Double),
    sa.Column("rate_burst", sa.Integer),
    sa.Column("tokens", sa.Double, nullable=False),
    sa.Column("tokens_time", _Time, nullable=False),
    # By priority, the fairness key that had its turn last.
    sa.Column("turns", ARRAY(sa.Text), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("create_time", _Time, nullable=False),
    sa.Column("update_time", _Time, nullable=False),
)

attempt = sa.Table(
    "attempt",
    metadata,
    sa.Column("task_id", sa.Uuid, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("session_id", sa.Uuid, nullable=False),
    sa.Column("start_time", _Time, nullable=False),
    sa.Column("end_time", _Time),
    sa.Column("outcome", sa.Text),
    sa.Column("error", JSONB),
    # Its last word, for people: {number, message, done}.
    sa.Column("progress", JSONB),
    sa.Column("progress_time", _Time),
)

task_step = sa.Table(
    "task_step",
    metadata,
    sa.Column("task_id", sa.Uuid, primary_key=True),
    sa.Column("step_key", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("call_id", sa.Uuid, nullable=False),
    sa.Column("input_digest", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("output", sa.Text),
    sa.Column("error", JSONB),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("start_time", _Time, nullable=False),
    sa.Column("end_time", _Time),
)

task_event = sa.Table(
    "task_event",
    metadata,
    sa.Column("task_id", sa.Uuid, primary_key=True),
    sa.Column("revision", sa.BigInteger, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("wait_reason", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    # {"step": {…}, "error": {…}}, as far as there are any.
    sa.Column("detail", JSONB),
    sa.Column("time", _Time, nullable=False),
)

task_input = sa.Table(
    "task_input",
    metadata,
    sa.Column("task_id", sa.Uuid, primary_key=True),
    sa.Column("input_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    # Empty while the answer has come and the question has not.
    sa.Column("kind", sa.Text),
    sa.Column("step_key", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("schema", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("answer", sa.Text),
    sa.Column("answered_by", sa.Text),
    sa.Column("request_time", _Time),
    sa.Column("answer_time", _Time),
    # The answer is the gateway's decision: no other one counts for an approval.
    sa.Column("decided", sa.Boolean, nullable=False),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("method", sa.Text, primary_key=True),
    sa.Column("request_id", sa.Uuid, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("task_id", sa.Uuid, nullable=False),
    sa.Column("create_time", _Time, nullable=False),
)

worker_session = sa.Table(
    "worker_session",
    metadata,
    sa.Column("session_id", sa.Uuid, primary_key=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("slot", sa.Text, nullable=False),
    sa.Column("incarnation", sa.BigInteger, nullable=False),
    sa.Column("pools", JSONB, nullable=False),
    sa.Column("capacity", sa.Integer, nullable=False),
    sa.Column("start_time", _Time, nullable=False),
    sa.Column("lease_until", _Time, nullable=False),
    sa.Column("end_time", _Time),
    # [{"tenant": …, "pool": …}], as its token names them.
    sa.Column("serves", JSONB, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False),
)

claim = sa.Table(
    "claim",
    metadata,
    sa.Column("session_id", sa.Uuid, primary_key=True),
    sa.Column("claim_id", sa.Uuid, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("task_id", sa.Uuid, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("create_time", _Time, nullable=False),
)
