"""Statements on tool calls. All name the tenant, but for those of the relay and of the sweep."""

import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.call_rows import from_row, outcome_to_row, to_row
from gateway_svc.call_write_store import Beginning, Ending, Refusing, begin_calls, end_calls, refuse_calls
from gateway_svc.errors import refusal_in_doubt
from gateway_svc.quota_store import begin_within_limits
from gateway_svc.quotas import Ceiling
from gateway_svc.tables import gateway, tool_call
from gateway_svc.told_store import Told, write_told
from gateway_svc.tool_call import CallKey, CallStatus, Outcome, ToolCall
from svc_kit.database import Database
from svc_kit.errors import DomainError, Unavailable
from svc_kit.event_log import advance
from svc_kit.filters import Condition, Operator
from svc_kit.group_commit import GroupCommit
from svc_kit.metrics import commit_lane
from svc_kit.outbox import Message, write_outbox

_SWEEP_ROWS = 100
_DECIDED = frozenset({"verdicts", "policy_ids", "shadow_policy_ids"})
_ROW_BYTES = 2048

_FIND = sa.select(tool_call).where(
    tool_call.c.tenant == sa.bindparam("tenant"), tool_call.c.call_id == sa.bindparam("call_id")
)
_CONTENTS = sa.text(
    "SELECT tenant, call_id, reason, message, result_json, error_class, error_message FROM tool_call"
    " JOIN unnest(CAST(:tenants AS text[]), CAST(:call_ids AS uuid[])) AS asked (tenant, call_id)"
    " USING (tenant, call_id)"
)
_PAYLOADS = sa.text(
    "SELECT event_id, part, content_type, body FROM audit_payload"
    " WHERE event_id = ANY(CAST(:event_ids AS uuid[]))"
)
_ASK_TO_CANCEL = sa.text(
    "UPDATE tool_call SET cancel_by = coalesce(cancel_by, :by)"
    " WHERE tenant = :tenant AND call_id = :call_id AND status = 'RUNNING'"
)
_TO_CANCEL = sa.text(
    "SELECT tenant, call_id, cancel_by FROM tool_call"
    " WHERE owner = :owner AND status = 'RUNNING' AND cancel_by IS NOT NULL"
)
_FORGET = sa.text("DELETE FROM audit_payload WHERE event_id = ANY(CAST(:event_ids AS uuid[]))")


_SOME_SHADOW = sa.literal_column("shadow_policy_ids <> '{}'", sa.Boolean)


# Nothing was executed, so the approval has not been used.
_GIVE_BACK = sa.text(
    "UPDATE approval SET used_by = NULL"
    " WHERE tenant = :tenant AND approval_id = :approval_id AND used_by = :used_by"
)


class CallStore:
    """Calls as rows; an ended call never changes. Writers that wait at the same time share a commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._beginnings: GroupCommit[Beginning, bool] = GroupCommit(
            self._begin,
            size_of=lambda _: _ROW_BYTES,
            tenant_of=lambda row: row.call.asked.tenant,
            observe=commit_lane("begin"),
        )
        self._refusals: GroupCommit[Refusing, bool] = GroupCommit(
            self._refuse,
            size_of=lambda row: _ROW_BYTES + len(row.told.body),
            tenant_of=lambda row: row.call.asked.tenant,
            observe=commit_lane("refuse"),
        )
        self._endings: GroupCommit[Ending, bool] = GroupCommit(
            self._end,
            size_of=lambda row: _ROW_BYTES + len(row.outcome.result_json),
            tenant_of=lambda row: row.call.asked.tenant,
            # What was executed is never turned away; so many as may run at a time can wait here.
            max_queued_rows=sys.maxsize,
            max_queued_bytes=sys.maxsize,
            observe=commit_lane("end"),
        )

    async def close(self) -> None:
        """Take no more writes, and wait for those that were taken."""
        for lane in (self._beginnings, self._refusals, self._endings):
            await lane.close()

    async def find(self, key: CallKey) -> ToolCall | None:
        """One call."""
        async with self._database.autocommit() as connection:
            found = await connection.execute(_FIND, {"tenant": key.tenant, "call_id": key.call_id})
            row = found.mappings().one_or_none()
        return from_row(row) if row is not None else None

    async def begin(self, call: ToolCall, *, repeatable: bool, ceilings: tuple[Ceiling, ...] = ()) -> bool:
        """Store a call as RUNNING. False when it stands already and was not refused.

        `repeatable`: a call whose outcome is UNKNOWN may begin again too. Raises QUOTA_EXCEEDED when there is
        no room under the ceilings, or under what operators limit.
        """
        return await self._beginnings.submit(Beginning(call=call, repeatable=repeatable, ceilings=ceilings))

    async def refuse(self, call: ToolCall, told: Told) -> None:
        """Store a refusal, unless the call stands already and was not refused, and tell of it in any case."""
        await self._refusals.submit(Refusing(call=call, told=told))

    async def withdraw(self, call: ToolCall, *, reason: str, message: str, now: datetime, told: Told) -> None:
        """Turn a call that was begun, but of which nothing was executed, into a refused one.

        One whose beginning was never stored is stored as refused.
        """
        values = {"status": CallStatus.REFUSED, "reason": reason, "message": message, "end_time": now}
        values |= {name: value for name, value in to_row(call).items() if name in _DECIDED}
        async with self._database.transaction() as connection:
            if call.approval_id is not None:
                await connection.execute(
                    _GIVE_BACK,
                    {
                        "tenant": call.asked.tenant,
                        "approval_id": call.approval_id,
                        "used_by": call.audit_event,
                    },
                )
            withdrawn = await self._change(connection, call, values, [CallStatus.RUNNING])
            if withdrawn:
                await write_told(connection, [told])
        if not withdrawn and await self._never_stood(call):
            refused = replace(call, status=CallStatus.REFUSED, reason=reason, message=message, owner=None)
            await self.refuse(refused, told)

    async def _never_stood(self, call: ToolCall) -> bool:
        found = await self.find(call.asked.key)
        if found is None:
            return True
        return found.status is CallStatus.REFUSED and found.audit_event != call.audit_event

    async def finish(self, call: ToolCall, outcome: Outcome, *, audit_index: int, told: Told) -> bool:
        """Store how a call of this process ended; False when it has ended already, or is not its owner's now.

        The outcome of a call that was given up for lost meanwhile is stored too: the truth came late.
        """
        return await self._endings.submit(
            Ending(call=call, outcome=outcome, audit_index=audit_index, told=told)
        )

    async def ask_to_cancel(self, key: CallKey, *, by: str) -> None:
        """Note who wants a running call to end."""
        async with self._database.autocommit() as connection:
            await connection.execute(_ASK_TO_CANCEL, {"tenant": key.tenant, "call_id": key.call_id, "by": by})

    async def to_cancel(self, owner: uuid.UUID) -> dict[CallKey, str]:
        """The running calls of one gateway that are to end, and who wants it."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_TO_CANCEL, {"owner": owner})).all()
        return {CallKey(row.tenant, row.call_id): row.cancel_by for row in rows}

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

    async def contents(self, keys: Sequence[CallKey]) -> dict[CallKey, Any]:
        """What calls of any tenants left behind (rows), for the relay alone."""
        if not keys:
            return {}
        parameters = {"tenants": [key.tenant for key in keys], "call_ids": [key.call_id for key in keys]}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_CONTENTS, parameters)).all()
        return {CallKey(row.tenant, row.call_id): row for row in rows}

    async def payloads(self, event_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Any]:
        """Contents on their way to the audit log (rows of part, content_type, body), for the relay alone."""
        if not event_ids:
            return {}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_PAYLOADS, {"event_ids": list(event_ids)})).all()
        return {row.event_id: row for row in rows}

    async def forget_payloads(self, connection: AsyncConnection, event_ids: Sequence[uuid.UUID]) -> None:
        """The audit log has them."""
        await connection.execute(_FORGET, {"event_ids": list(event_ids)})

    async def _begin(self, rows: Sequence[Beginning]) -> list[bool | DomainError]:
        async with self._database.autocommit() as connection:
            done = await begin_calls(connection, rows)
        limited = [row for row, each in zip(rows, done, strict=True) if each is None]
        if not limited:
            return [bool(each) for each in done]
        async with self._database.transaction() as connection:
            answers = iter(await begin_within_limits(connection, limited))
        return [next(answers) if each is None else each for each in done]

    async def _refuse(self, rows: Sequence[Refusing]) -> list[bool | DomainError]:
        try:
            async with self._database.autocommit() as connection:
                told = await refuse_calls(connection, rows)
        except Unavailable:
            for row in rows:
                row.in_doubt = True
            raise
        return [done or refusal_in_doubt() for done in told]

    async def _end(self, rows: Sequence[Ending]) -> list[bool]:
        async with self._database.autocommit() as connection:
            return await end_calls(connection, rows)

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


def _holds(condition: Condition) -> sa.ColumnElement[bool]:
    if condition.field == "shadow_policy":
        named = tool_call.c.shadow_policy_ids.contains([condition.value])
        # As the index has it.
        return named & _SOME_SHADOW if condition.operator is Operator.EQUAL else ~named
    column = tool_call.c[condition.field]
    value = sa.literal(condition.value).cast(column.type)
    return column == value if condition.operator is Operator.EQUAL else column != value


def _is(key: CallKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (tool_call.c.tenant == key.tenant, tool_call.c.call_id == key.call_id)
