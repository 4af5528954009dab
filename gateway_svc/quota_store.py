"""The statements of step 8: calls that something limits are counted and begun under a lock of their tenant.

All replicas count the rows of the calls themselves, so nothing has to be given back when a call ends, is
withdrawn or is lost with its gateway. Calls that nothing limits never come here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.call_write_store import Beginning, begin_calls
from gateway_svc.quotas import Ceiling, Count, Counter, Gate, Wish, admit, ceilings
from gateway_svc.tool_call import CallKind
from svc_kit.errors import DomainError
from svc_kit.identity.principal import SYSTEM_TENANT

_LOCK = sa.text(
    "SELECT pg_advisory_xact_lock(key) FROM"
    " (SELECT DISTINCT hashtextextended('calls of ' || tenant, 0) AS key"
    " FROM unnest(CAST(:tenants AS text[])) AS tenant ORDER BY key) AS keys"
)
_LIMITS = sa.text(
    "SELECT tenant, tool, max_running, max_per_minute FROM call_limit"
    " WHERE tenant = ANY(CAST(:tenants AS text[]))"
)
# Of calls of this batch that stand already, by a commit that nobody heard of, none counts against itself.
_OF_THE_GATE = (
    "FROM tool_call AS call WHERE call.tenant = gate.tenant AND call.called = gate.called"
    " AND (gate.name = '' OR call.tool = gate.name) AND call.audit_event <> ALL(CAST(:own AS uuid[]))"
)
_MINUTE = "call.status <> 'REFUSED' AND call.create_time > statement_timestamp() - interval '1 minute'"
_DAY = (
    "call.called = 'MODEL' AND call.status <> 'REFUSED'"
    " AND call.create_time >= date_trunc('day', statement_timestamp(), 'UTC')"
)
_COUNTS = sa.text(
    "SELECT gate.ordinal, CASE gate.bound"  # noqa: S608 - names of our own
    f" WHEN 'max_running' THEN (SELECT count(*) {_OF_THE_GATE} AND call.status = 'RUNNING')"
    f" WHEN 'max_per_minute' THEN (SELECT count(*) {_OF_THE_GATE} AND {_MINUTE})"
    " WHEN 'max_tokens_per_day' THEN (SELECT coalesce(sum("
    f"coalesce(call.input_tokens + call.output_tokens, call.reserved_tokens)), 0) {_OF_THE_GATE} AND {_DAY})"
    " WHEN 'max_cost_micros_per_day' THEN (SELECT coalesce(sum("
    f"coalesce(call.cost_micros, call.reserved_micros)), 0) {_OF_THE_GATE} AND {_DAY})"
    " END AS used, CASE gate.bound WHEN 'max_running' THEN 1"
    # Not longer than ten seconds: the limit may be lifted meanwhile.
    " WHEN 'max_per_minute' THEN (SELECT least(10, extract(epoch FROM min(call.create_time)"
    f" + interval '1 minute' - statement_timestamp())) {_OF_THE_GATE} AND {_MINUTE})"
    # What a call that runs has set aside may be more than it uses.
    f" ELSE CASE WHEN EXISTS (SELECT {_OF_THE_GATE} AND call.status = 'RUNNING') THEN 5"
    " ELSE extract(epoch FROM date_trunc('day', statement_timestamp(), 'UTC') + interval '1 day'"
    " - statement_timestamp()) END END AS wait"
    " FROM unnest(CAST(:tenants AS text[]), CAST(:kinds AS text[]), CAST(:names AS text[]),"
    " CAST(:bounds AS text[])) WITH ORDINALITY AS gate (tenant, called, name, bound, ordinal)"
    " ORDER BY gate.ordinal"
)
_LEAST_WAIT, _LONGEST_WAIT = 0.1, 3600.0


async def begin_within_limits(
    connection: AsyncConnection, rows: Sequence[Beginning]
) -> list[bool | DomainError]:
    """As `begin_calls`, within a transaction; QUOTA_EXCEEDED for those for which there is no room."""
    tenants = sorted({row.call.asked.tenant for row in rows})
    await connection.execute(_LOCK, {"tenants": tenants})
    said = (await connection.execute(_LIMITS, {"tenants": [*tenants, SYSTEM_TENANT]})).all()
    wishes = [
        Wish(ceilings=(*row.ceilings, *_operators(row, said)), reserve=row.call.reserve) for row in rows
    ]
    answers = admit(wishes, await _counts(connection, rows, wishes))
    let_in = [replace(row, counted=True) for row, no in zip(rows, answers, strict=True) if no is None]
    begun = iter(await begin_calls(connection, let_in) if let_in else [])
    return [bool(next(begun)) if no is None else no for no in answers]


def _operators(row: Beginning, said: Sequence[Any]) -> tuple[Ceiling, ...]:
    """What operators say of a tool, of all tools of its tenant, and (those of the suite) of each tenant."""
    asked = row.call.asked
    if asked.kind is not CallKind.TOOL:
        return ()
    by = {(each.tenant, each.tool): each for each in said}
    found: list[Ceiling] = []
    for key, gate, whose in (
        ((asked.tenant, asked.tool), asked.tool, "the operator"),
        ((asked.tenant, ""), "", "the tenant's operator"),
        ((SYSTEM_TENANT, ""), "", "the operator of all tenants"),
    ):
        limit = by.get(key)
        if limit is not None:
            found += ceilings(
                Gate(asked.tenant, CallKind.TOOL, gate),
                said_by=whose,
                max_running=limit.max_running,
                max_per_minute=limit.max_per_minute,
            )
    return tuple(found)


async def _counts(
    connection: AsyncConnection, rows: Sequence[Beginning], wishes: Sequence[Wish]
) -> dict[Counter, Count]:
    counters = sorted({ceiling.counter for wish in wishes for ceiling in wish.ceilings})
    parameters = {
        "tenants": [counter.gate.tenant for counter in counters],
        "kinds": [counter.gate.kind for counter in counters],
        "names": [counter.gate.name for counter in counters],
        "bounds": [counter.bound for counter in counters],
        "own": [row.call.audit_event for row in rows],
    }
    found = (await connection.execute(_COUNTS, parameters)).all()
    return {
        counter: Count(int(row.used), min(max(float(row.wait or 0), _LEAST_WAIT), _LONGEST_WAIT))
        for counter, row in zip(counters, found, strict=True)
    }
