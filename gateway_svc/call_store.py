"""Statements on tool calls. All name the tenant, but for those of the relay and of the sweep."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.call_rows import from_row, outcome_to_row, to_row
from gateway_svc.tables import audit_payload, gateway, tool_call
from gateway_svc.tool_call import CallKey, CallStatus, Outcome, ToolCall
from svc_kit.database import Database
from svc_kit.event_log import advance
from svc_kit.filters import Condition, Operator
from svc_kit.outbox import Message, write_outbox

_SWEEP_ROWS = 100
# Kept from the first time the call was asked for.
_DECIDED = frozenset({"verdicts", "policy_ids"})
_KEPT = frozenset({"tenant", "call_id", "attempt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the audit log is to be told in the same transaction, and a content that no other row keeps."""

    message: Message
    part: str = ""
    content_type: str = "application/json"
    body: bytes = b""


class CallStore:
    """Calls as rows; an ended call never changes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key: CallKey) -> ToolCall | None:
        """One call."""
        query = sa.select(tool_call).where(*_is(key))
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return from_row(row) if row is not None else None

    async def begin(self, call: ToolCall, *, repeatable: bool) -> bool:
        """Store a call as RUNNING. False when it stands already and was not refused.

        `repeatable`: a call whose outcome is UNKNOWN may begin again too.
        """
        free = [CallStatus.REFUSED, CallStatus.UNKNOWN] if repeatable else [CallStatus.REFUSED]
        async with self._database.transaction() as connection:
            return await _put(connection, call, free)

    async def refuse(self, call: ToolCall, told: Told) -> None:
        """Store a refusal, unless the call stands already and was not refused, and tell of it in any case."""
        async with self._database.transaction() as connection:
            await _put(connection, call, [CallStatus.REFUSED])
            await _tell(connection, told)

    async def withdraw(self, call: ToolCall, *, reason: str, message: str, now: datetime, told: Told) -> None:
        """Turn a call that was begun, but of which nothing was executed, into a refused one."""
        values = {"status": CallStatus.REFUSED, "reason": reason, "message": message, "end_time": now}
        values |= {name: value for name, value in to_row(call).items() if name in _DECIDED}
        async with self._database.transaction() as connection:
            if await self._change(connection, call, values, [CallStatus.RUNNING]):
                await _tell(connection, told)

    async def finish(self, call: ToolCall, outcome: Outcome, *, audit_index: int, told: Told) -> bool:
        """Store how a call of this process ended; False when it has ended already, or is not its owner's now.

        The outcome of a call that was given up for lost meanwhile is stored too: the truth came late.
        """
        values = {**outcome_to_row(outcome), "audit_index": audit_index}
        async with self._database.transaction() as connection:
            stored = await self._change(connection, call, values, [CallStatus.RUNNING, CallStatus.UNKNOWN])
            if stored:
                await _tell(connection, told)
        return stored

    async def give_up_lost(
        self, abandoned: Sequence[uuid.UUID], end: Callable[[ToolCall], tuple[Outcome, Message]]
    ) -> int:
        """End some running calls whose gateway lives no more, of any tenant, for the sweep alone; how many.

        `abandoned` are audit events of calls that a living gateway cannot end in order.
        """
        query = (
            sa.select(tool_call)
            .where(
                tool_call.c.status == CallStatus.RUNNING,
                ~sa.exists().where(gateway.c.incarnation == tool_call.c.owner)
                | tool_call.c.audit_event.in_(abandoned),
            )
            .limit(_SWEEP_ROWS)
            .with_for_update(of=tool_call, skip_locked=True)
        )
        async with self._database.transaction() as connection:
            calls = [from_row(row) for row in (await connection.execute(query)).mappings()]
            if not calls:
                return 0
            messages = []
            for call in calls:
                outcome, message = end(call)
                await self._change(connection, call, outcome_to_row(outcome), [CallStatus.RUNNING])
                messages.append(message)
            head = await advance(connection, events=0, outbox=len(messages))
            await write_outbox(connection, head, messages)
        return len(calls)

    async def page(
        self,
        tenant: str,
        *,
        conditions: Sequence[Condition],
        before: tuple[datetime, uuid.UUID] | None,
        limit: int,
    ) -> list[ToolCall]:
        """Calls of a tenant that fulfil every condition, newest first, older than a position."""
        query = (
            sa.select(tool_call)
            .where(tool_call.c.tenant == tenant, *(_holds(condition) for condition in conditions))
            .order_by(tool_call.c.create_time.desc(), tool_call.c.call_id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(
                sa.tuple_(tool_call.c.create_time, tool_call.c.call_id)
                < sa.tuple_(sa.literal(before[0]), sa.literal(before[1]))
            )
        async with self._database.autocommit() as connection:
            return [from_row(row) for row in (await connection.execute(query)).mappings()]

    async def contents(self, keys: Sequence[CallKey]) -> dict[CallKey, ToolCall]:
        """Calls of any tenants, for the relay alone."""
        if not keys:
            return {}
        query = sa.select(tool_call).where(sa.tuple_(tool_call.c.tenant, tool_call.c.call_id).in_(keys))
        async with self._database.autocommit() as connection:
            calls = [from_row(row) for row in (await connection.execute(query)).mappings()]
        return {call.asked.key: call for call in calls}

    async def payloads(self, event_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Any]:
        """Contents on their way to the audit log (rows of part, content_type, body), for the relay alone."""
        query = sa.select(audit_payload).where(audit_payload.c.event_id.in_(event_ids))
        async with self._database.autocommit() as connection:
            return {row.event_id: row for row in (await connection.execute(query)).all()}

    async def forget_payloads(self, connection: AsyncConnection, event_ids: Sequence[uuid.UUID]) -> None:
        """The audit log has them."""
        await connection.execute(sa.delete(audit_payload).where(audit_payload.c.event_id.in_(event_ids)))

    async def _change(
        self,
        connection: AsyncConnection,
        call: ToolCall,
        values: Mapping[str, Any],
        from_statuses: Sequence[CallStatus],
    ) -> bool:
        """Change a call as its owner took it; False when it is no longer in one of these statuses."""
        statement = (
            sa.update(tool_call)
            .where(
                *_is(call.asked.key),
                tool_call.c.owner == call.owner,
                tool_call.c.audit_event == call.audit_event,
                tool_call.c.status.in_(from_statuses),
            )
            .values(**values)
        )
        return (await connection.execute(statement)).rowcount == 1


async def write_told(connection: AsyncConnection, told: Sequence[Told]) -> None:
    """Queue for the audit log, as the last thing of a transaction: it takes the lock that orders them."""
    kept = [
        {
            "event_id": each.message.event_id,
            "part": each.part,
            "content_type": each.content_type,
            "body": each.body,
        }
        for each in told
        if each.part
    ]
    if kept:
        await connection.execute(sa.insert(audit_payload), kept)
    head = await advance(connection, events=0, outbox=len(told))
    await write_outbox(connection, head, [each.message for each in told])


async def _tell(connection: AsyncConnection, told: Told) -> None:
    await write_told(connection, [told])


async def _put(connection: AsyncConnection, call: ToolCall, replaced: Sequence[CallStatus]) -> bool:
    values = to_row(call)
    statement = insert(tool_call).values(**values)
    statement = statement.on_conflict_do_update(
        index_elements=[tool_call.c.tenant, tool_call.c.call_id],
        set_={name: statement.excluded[name] for name in values if name not in _KEPT},
        where=tool_call.c.status.in_(replaced),
    )
    stored = await connection.execute(statement.returning(tool_call.c.call_id))
    return stored.one_or_none() is not None


def _holds(condition: Condition) -> sa.ColumnElement[bool]:
    column = tool_call.c[condition.field]
    value = sa.literal(condition.value).cast(column.type)
    return column == value if condition.operator is Operator.EQUAL else column != value


def _is(key: CallKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (tool_call.c.tenant == key.tenant, tool_call.c.call_id == key.call_id)
