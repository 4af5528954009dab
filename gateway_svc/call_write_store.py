"""The statements by which calls begin, are refused and end: a batch in one statement and one round trip.

A statement on its own is a transaction. Locks: approvals, then calls, in the order of their keys, then the
head of the log.
Every statement may run again after a COMMIT that nobody heard of; what it did the first time it does not
repeat. That matters most for what the log is told: told again, it would have another number, and so be
another event under the same id.
"""

# ruff: noqa: S608 - the statements are put together from names of our own

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.call_rows import outcome_to_row, to_row
from gateway_svc.quotas import Ceiling
from gateway_svc.told_store import Told
from gateway_svc.tool_call import Outcome, ToolCall
from svc_kit.group_commit import in_row_order


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A call to store as RUNNING; `repeatable`: also where it stands with an unknown outcome."""

    call: ToolCall
    repeatable: bool
    ceilings: tuple[Ceiling, ...] = ()
    """What its tool's publisher, or its connection, limits."""
    counted: bool = False
    """Whether room was found for it under every limit."""


@dataclass(slots=True, kw_only=True)
class Refusing:
    """A refused call, and what the log is told of it."""

    call: ToolCall
    told: Told
    in_doubt: bool = False
    """It was tried before, and nobody knows what became of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a call ended, and what the log is told of it."""

    call: ToolCall
    outcome: Outcome
    audit_index: int
    told: Told


# Columns, and the types of the arrays that bring them.
_KEY = {"tenant": "text", "call_id": "uuid", "audit_event": "uuid"}
_FIRST = {"attempt": "int"}  # kept from the first time the call was asked for
_ASKED = {
    "task_id": "uuid",
    "step_key": "text",
    "agent": "text",
    "agent_version": "text",
    "agent_digest": "text",
    "called": "text",
    "tool": "text",
    "tool_version": "text",
    "tool_digest": "text",
    "argument_digest": "text",
    "worker": "text",
    "submitters": "text",
    "status": "text",
    "reason": "text",
    "message": "text",
    "verdicts": "text",
    "policy_ids": "text",
    "shadow_policy_ids": "text",
    "approval_id": "uuid",
    "owner": "uuid",
    "reserved_tokens": "bigint",
    "reserved_micros": "bigint",
    "create_time": "timestamptz",
    "end_time": "timestamptz",
}
_OUTCOME = {
    "status": "text",
    "reason": "text",
    "message": "text",
    "end_time": "timestamptz",
    "isolation": "text",
    "result_json": "text",
    "is_error": "bool",
    "error_class": "text",
    "error_message": "text",
    "limit_name": "text",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cost_micros": "bigint",
    "receipt_key": "text",
    "receipt_payload": "bytea",
    "receipt_signature": "bytea",
    "audit_index": "bigint",
}
_MESSAGE = {"event_id": "uuid", "kind": "text", "body": "text"}
_CONTENT = {"part": "text", "content_type": "text", "content": "bytea"}
# Of a call that has not ended.
_EMPTY = {
    "audit_index": "NULL",
    "cancel_by": "NULL",
    "isolation": "''",
    "is_error": "false",
    "error_class": "''",
    "error_message": "''",
    "limit_name": "''",
}
# An array of arrays cannot be ragged; ids of policies have no commas.
_FROM_TEXT = {
    "submitters": "submitters::jsonb",
    "verdicts": "verdicts::jsonb",
    "policy_ids": "string_to_array(policy_ids, ',')",
    "shadow_policy_ids": "string_to_array(shadow_policy_ids, ',')",
}


def _rows(columns: Mapping[str, str]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    return f"row AS (SELECT * FROM unnest({arrays}) WITH ORDINALITY AS row ({', '.join(columns)}, ordinal))"


def _put(*, which: str = "true", over: str, instead: dict[str, str] | None = None) -> str:
    stored = _KEY | _FIRST | _ASKED
    taken = _FROM_TEXT | (instead or {})
    changed = ["audit_event", *_ASKED, *_EMPTY]
    return (
        f"put AS (INSERT INTO tool_call ({', '.join([*stored, *_EMPTY])})"
        f" SELECT DISTINCT ON (tenant, call_id)"
        f" {', '.join([*(taken.get(name, name) for name in stored), *_EMPTY.values()])}"
        # Of two of one call the later one counts.
        f" FROM row WHERE {which} ORDER BY tenant, call_id, ordinal DESC"
        f" ON CONFLICT (tenant, call_id) DO UPDATE SET {', '.join(f'{n} = excluded.{n}' for n in changed)}"
        f" WHERE {over} RETURNING tenant, call_id, audit_event)"
    )


def _tell(*, before: str) -> str:
    """The head of the log and the outbox, for the rows of a CTE `told`; `before` has to be done first."""
    return (
        f"head AS (UPDATE log_head SET outbox_seq = log_head.outbox_seq + counted.told"
        f" FROM (SELECT (SELECT count(*) FROM told) AS told, (SELECT count(*) FROM {before}) AS done)"
        f" AS counted WHERE id = 1 AND counted.told > 0 AND counted.done >= 0"
        f" RETURNING log_head.outbox_seq - counted.told AS seq),"
        f" notes AS (INSERT INTO outbox (seq, tenant, event_id, kind, body)"
        f" SELECT head.seq + row_number() OVER (ORDER BY ordinal), tenant, event_id, kind, body::jsonb"
        f" FROM told, head)"
    )


# What nothing limits begins at once; the rest is counted first.
_OPEN = (
    "(row.counted OR NOT (row.limited OR row.called = 'TOOL' AND EXISTS (SELECT FROM call_limit"
    " WHERE call_limit.tenant = row.tenant AND call_limit.tool IN (row.tool, '')"
    " OR call_limit.tenant = 'system' AND call_limit.tool = '')))"
)
_BEGIN = sa.text(
    f"WITH {_rows(_KEY | _FIRST | _ASKED | {'repeatable': 'bool', 'limited': 'bool', 'counted': 'bool'})}, "
    # A call that needs an approval begins with it or not at all.
    "used AS (UPDATE approval SET used_by = row.audit_event FROM row"
    " WHERE approval.tenant = row.tenant AND approval.approval_id = row.approval_id"
    " AND approval.call_id = row.call_id AND approval.status = 'APPROVED'"
    " AND (approval.used_by IS NULL AND approval.expire_time > clock_timestamp()"
    f" OR approval.used_by = row.audit_event) AND {_OPEN} RETURNING approval.approval_id), "
    + _put(
        which=f"{_OPEN} AND (approval_id IS NULL OR approval_id IN (SELECT used.approval_id FROM used))",
        over="tool_call.status = 'REFUSED'"
        " OR tool_call.status = 'RUNNING' AND tool_call.audit_event = excluded.audit_event"
        " OR tool_call.status = 'UNKNOWN' AND excluded.audit_event IN"
        " (SELECT audit_event FROM row WHERE repeatable)",
        # Limits count by it: a gateway whose clock is wrong begins no more than others.
        instead={"create_time": "statement_timestamp()"},
    )
    + f" SELECT row.ordinal, row.tenant, CASE WHEN {_OPEN} THEN put.audit_event IS NOT NULL END AS done"
    " FROM row LEFT JOIN put USING (tenant, call_id, audit_event)"
)
_REFUSE = sa.text(
    f"WITH {_rows(_KEY | _FIRST | _ASKED | _MESSAGE | _CONTENT | {'in_doubt': 'bool'})}, "
    # What is in doubt is looked for, and never told again.
    + _put(which="NOT in_doubt", over="tool_call.status = 'REFUSED'")
    + ", told AS (SELECT * FROM row WHERE NOT in_doubt),"
    " kept AS (INSERT INTO audit_payload (event_id, part, content_type, body)"
    " SELECT event_id, part, content_type, content FROM told WHERE part <> '' RETURNING event_id),"
    " done AS (SELECT event_id FROM kept UNION ALL SELECT audit_event FROM put), "
    + _tell(before="done")
    + " SELECT row.ordinal, row.tenant, NOT row.in_doubt OR stands.audit_event IS NOT NULL AS done"
    " FROM row LEFT JOIN tool_call AS stands ON row.in_doubt"
    " AND stands.tenant = row.tenant AND stands.call_id = row.call_id"
    " AND stands.audit_event = row.audit_event"
)
_END = sa.text(
    f"WITH {_rows(_KEY | {'owner': 'uuid'} | _OUTCOME | _MESSAGE)}, "
    f"ended AS (UPDATE tool_call SET {', '.join(f'{name} = row.{name}' for name in _OUTCOME)} FROM row"
    " WHERE tool_call.tenant = row.tenant AND tool_call.call_id = row.call_id"
    " AND tool_call.owner = row.owner AND tool_call.audit_event = row.audit_event"
    " AND tool_call.status IN ('RUNNING', 'UNKNOWN') AND tool_call.end_time IS DISTINCT FROM row.end_time"
    " RETURNING row.ordinal),"
    " told AS (SELECT row.* FROM row JOIN ended USING (ordinal)), "
    + _tell(before="ended")
    + " SELECT row.ordinal, row.tenant, ended.ordinal IS NOT NULL OR stands.audit_event IS NOT NULL AS done"
    " FROM row LEFT JOIN ended USING (ordinal) LEFT JOIN tool_call AS stands"
    " ON stands.tenant = row.tenant AND stands.call_id = row.call_id AND stands.owner = row.owner"
    " AND stands.audit_event = row.audit_event AND stands.end_time = row.end_time"
    " AND stands.status = row.status"
)


async def begin_calls(connection: AsyncConnection, rows: Sequence[Beginning]) -> list[bool | None]:
    """Whether each stands as RUNNING by this now; None for one that something limits, and was not counted.

    A call that was refused begins anew.
    """
    values = [
        _call(row.call)
        | {"repeatable": row.repeatable, "limited": bool(row.ceilings), "counted": row.counted}
        for row in rows
    ]
    return await _run(connection, _BEGIN, values)


async def refuse_calls(connection: AsyncConnection, rows: Sequence[Refusing]) -> list[bool]:
    """Whether the log is told of each; False for one of which that stays in doubt.

    A call that stands, and not as refused, stays as it is.
    """
    values = [
        _call(row.call)
        | _message(row.told)
        | {
            "part": row.told.part,
            "content_type": row.told.content_type,
            "content": row.told.body,
            "in_doubt": row.in_doubt,
        }
        for row in rows
    ]
    return await _run(connection, _REFUSE, values)


async def end_calls(connection: AsyncConnection, rows: Sequence[Ending]) -> list[bool]:
    """Whether each stands with exactly this end; one that was given up for lost is ended too."""
    values = [
        {
            "tenant": row.call.asked.tenant,
            "call_id": row.call.asked.call_id,
            "audit_event": row.call.audit_event,
            "owner": row.call.owner,
            "audit_index": row.audit_index,
        }
        | outcome_to_row(row.outcome)
        | _message(row.told)
        for row in rows
    ]
    return await _run(connection, _END, values)


async def _run(
    connection: AsyncConnection, statement: sa.TextClause, values: Sequence[Mapping[str, Any]]
) -> list[Any]:
    parameters = {name: [row[name] for row in values] for name in values[0]}
    found = (await connection.execute(statement, parameters)).all()
    return in_row_order([row["tenant"] for row in values], [(r.ordinal, r.tenant, r.done) for r in found])


def _call(call: ToolCall) -> dict[str, Any]:
    values = to_row(call)
    return {name: values[name] for name in (*_KEY, *_FIRST, *_ASKED)} | {
        "submitters": json.dumps(values["submitters"]),
        "verdicts": json.dumps(values["verdicts"]),
        "policy_ids": ",".join(values["policy_ids"]),
        "shadow_policy_ids": ",".join(values["shadow_policy_ids"]),
    }


def _message(told: Told) -> dict[str, Any]:
    message = told.message
    return {"event_id": message.event_id, "kind": message.kind, "body": json.dumps(message.body)}
