"""The gateway's tables, for statements; the migrations make them."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from svc_kit.event_log import log_head_table
from svc_kit.outbox import outbox_table

metadata = sa.MetaData()
log_head = log_head_table(metadata)
outbox = outbox_table(metadata)

tool_call = sa.Table(
    "tool_call",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("call_id", sa.Uuid, primary_key=True),
    sa.Column("task_id", sa.Uuid, nullable=False),
    sa.Column("step_key", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("agent_version", sa.Text, nullable=False),
    sa.Column("agent_digest", sa.Text, nullable=False),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("tool_version", sa.Text, nullable=False),
    sa.Column("tool_digest", sa.Text, nullable=False),
    sa.Column("argument_digest", sa.Text, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    # Nearest first: a list of {tenant, subject, roles}.
    sa.Column("submitters", JSONB, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    # The five verdicts: a list of {check, passed, skipped, explanation}.
    sa.Column("verdicts", JSONB, nullable=False),
    sa.Column("policy_ids", ARRAY(sa.Text), nullable=False),
    sa.Column("owner", sa.Uuid),
    sa.Column("audit_event", sa.Uuid, nullable=False),
    sa.Column("audit_index", sa.BigInteger),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    # Who asked for the end of the running call.
    sa.Column("cancel_by", sa.Text),
    # From here on: the outcome, empty until there is one.
    sa.Column("end_time", sa.DateTime(timezone=True)),
    sa.Column("isolation", sa.Text, nullable=False),
    sa.Column("result_json", sa.Text),
    sa.Column("is_error", sa.Boolean, nullable=False),
    sa.Column("error_class", sa.Text, nullable=False),
    sa.Column("error_message", sa.Text, nullable=False),
    sa.Column("limit_name", sa.Text, nullable=False),
    sa.Column("receipt_key", sa.Text),
    sa.Column("receipt_payload", sa.LargeBinary),
    sa.Column("receipt_signature", sa.LargeBinary),
    # TOOL or MODEL; of a model call `tool` is the connection and `tool_version` the model.
    sa.Column("called", sa.Text, nullable=False),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
    sa.Column("cost_micros", sa.BigInteger),
    # What it counts for in the quotas of its connection until that is known.
    sa.Column("reserved_tokens", sa.BigInteger),
    sa.Column("reserved_micros", sa.BigInteger),
    # That it waits for, or was started with.
    sa.Column("approval_id", sa.Uuid),
    # Policies in shadow mode that would have changed the decision.
    sa.Column("shadow_policy_ids", ARRAY(sa.Text), nullable=False),
)

approval = sa.Table(
    "approval",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("approval_id", sa.Uuid, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("call_id", sa.Uuid, nullable=False),
    sa.Column("task_id", sa.Uuid, nullable=False),
    sa.Column("step_key", sa.Text, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("agent_version", sa.Text, nullable=False),
    sa.Column("agent_digest", sa.Text, nullable=False),
    sa.Column("tool", sa.Text, nullable=False),
    sa.Column("tool_version", sa.Text, nullable=False),
    sa.Column("tool_digest", sa.Text, nullable=False),
    sa.Column("argument_digest", sa.Text, nullable=False),
    sa.Column("arguments_json", sa.Text, nullable=False),
    # People and services that the call is made for, the one at the top last; they may not decide.
    sa.Column("submitters", ARRAY(sa.Text), nullable=False),
    sa.Column("policy_ids", ARRAY(sa.Text), nullable=False),
    sa.Column("decider_role", sa.Text, nullable=False),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("decide_time", sa.DateTime(timezone=True)),
    sa.Column("decider", sa.Text, nullable=False),
    sa.Column("decision_reason", sa.Text, nullable=False),
    # The audit event of the call that was started with it.
    sa.Column("used_by", sa.Uuid),
    # Whether the orchestrator knows how it ended; true while it is pending.
    sa.Column("told", sa.Boolean, nullable=False),
    # Of its last change, in the order of commits.
    sa.Column("position", sa.BigInteger, nullable=False),
)

# Contents on their way to the audit log that no other row keeps; gone when the log has acknowledged them.
audit_payload = sa.Table(
    "audit_payload",
    metadata,
    sa.Column("event_id", sa.Uuid, primary_key=True),
    sa.Column("part", sa.Text, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


def _policy_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("cedar", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        # ENFORCE or SHADOW.
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True)),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("creator", sa.Text, nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updater", sa.Text, nullable=False),
        sa.Column("etag", sa.Text, nullable=False),
    )


policy = sa.Table(
    "policy",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("policy_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    *_policy_columns(),
)

# Every version that a policy ever had, the current one among them; the service can change and delete none.
policy_version = sa.Table(
    "policy_version",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("policy_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True),
    *_policy_columns(),
)

# Rises with every change of a tenant's policies; the row is the lock under which they change.
policy_head = sa.Table(
    "policy_head",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

# The gateway processes that live; a call whose owner is not here is lost.
gateway = sa.Table(
    "gateway",
    metadata,
    sa.Column("incarnation", sa.Uuid, primary_key=True),
    # Where it runs: a new process in the same slot means that the old one is gone.
    sa.Column("slot", sa.Text, nullable=False),
    sa.Column("beat_time", sa.DateTime(timezone=True), nullable=False),
)

connection = sa.Table(
    "connection",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("connection_id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("base_url", sa.Text, nullable=False),
    # A list of {name, input_micros, output_micros}.
    sa.Column("models", JSONB, nullable=False),
    sa.Column("agents", ARRAY(sa.Text), nullable=False),
    sa.Column("allow_private", sa.Boolean, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    # Quotas; 0 = none.
    sa.Column("max_requests_per_minute", sa.Integer, nullable=False),
    sa.Column("max_tokens_per_day", sa.BigInteger, nullable=False),
    sa.Column("max_cost_micros_per_day", sa.BigInteger, nullable=False),
    sa.Column("tool_digests", ARRAY(sa.Text), nullable=False),
    sa.Column("methods", ARRAY(sa.Text), nullable=False),
    sa.Column("credential_header", sa.Text, nullable=False),
    # A list of {name, sql, writes, max_rows, seconds}.
    sa.Column("statements", JSONB, nullable=False),
    # The credential, encrypted with the gateways' key.
    sa.Column("sealed", sa.LargeBinary),
    sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("creator", sa.Text, nullable=False),
    sa.Column("etag", sa.Text, nullable=False),
)

# What operators limit: a tool, or all tools of the tenant (an empty name); those of `system` of each tenant.
call_limit = sa.Table(
    "call_limit",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("tool", sa.Text, primary_key=True),
    # 0 = not limited.
    sa.Column("max_running", sa.Integer, nullable=False),
    sa.Column("max_per_minute", sa.Integer, nullable=False),
    sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
    sa.Column("updater", sa.Text, nullable=False),
)
