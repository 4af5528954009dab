"""Statements on approvals: one method per question. Times are the database's."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import RowMapping
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.approval import Approval, ApprovalStatus
from gateway_svc.tables import approval
from gateway_svc.told_store import Told, write_told
from svc_kit.database import Database
from svc_kit.event_log import read_head
from svc_kit.filters import Condition

_ALL = [column for column in approval.c if column.name != "told"]
_WITHOUT_ARGUMENTS = [column for column in _ALL if column.name != "arguments_json"]
_NOW = sa.func.clock_timestamp()
_PENDING = approval.c.status == ApprovalStatus.PENDING


class ApprovalStore:
    """Approvals as rows; every change takes the next position of the gateway's log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def last_of_call(self, tenant: str, call_id: uuid.UUID) -> tuple[Approval, datetime] | None:
        """The newest approval of a call, without its arguments, and what time it is."""
        query = (
            sa.select(*_WITHOUT_ARGUMENTS, _NOW.label("now"))
            .where(approval.c.tenant == tenant, approval.c.call_id == call_id)
            .order_by(approval.c.create_time.desc())
            .limit(1)
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return (_approval(row), row["now"]) if row is not None else None

    async def find(self, tenant: str, approval_id: uuid.UUID) -> tuple[Approval, datetime] | None:
        """One approval with its arguments, and what time it is."""
        query = sa.select(*_ALL, _NOW.label("now")).where(
            approval.c.tenant == tenant, approval.c.approval_id == approval_id
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return (_approval(row), row["now"]) if row is not None else None

    async def create(self, new: Approval, told: Told, *, lives: timedelta) -> bool:
        """Store a pending one and tell of it; False when one of the same call is pending already."""
        # By one clock, whichever gateway asks: the newest approval of a call is the one that counts.
        times = {"create_time": _NOW, "expire_time": _NOW + lives}
        statement = (
            insert(approval)
            .values(**{**_to_row(new), **times}, told=True, position=0)
            .on_conflict_do_nothing()
            .returning(approval.c.approval_id)
        )
        async with self._database.transaction() as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                return False
            await _place(connection, [(new.tenant, new.approval_id)], [told])
        return True

    async def decide(
        self, decided: Approval, *, status: ApprovalStatus, decider: str, reason: str, told: Told
    ) -> bool:
        """Decide it and tell of it; False when it was not pending any more, or had expired."""
        statement = (
            sa.update(approval)
            .where(
                approval.c.tenant == decided.tenant,
                approval.c.approval_id == decided.approval_id,
                _PENDING,
                approval.c.expire_time > _NOW,
            )
            .values(status=status, decider=decider, decision_reason=reason, decide_time=_NOW, told=False)
            .returning(approval.c.approval_id)
        )
        async with self._database.transaction() as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                return False
            await _place(connection, [(decided.tenant, decided.approval_id)], [told])
        return True

    async def overdue(self, *, limit: int) -> list[Approval]:
        """Pending ones whose time is over, of any tenant."""
        query = (
            sa.select(*_WITHOUT_ARGUMENTS)
            .where(_PENDING, approval.c.expire_time <= _NOW)
            .order_by(approval.c.expire_time)
            .limit(limit)
        )
        return await self._read(query)

    async def pending_tasks(self) -> set[tuple[str, uuid.UUID]]:
        """Every task that a pending approval is for, of any tenant."""
        query = sa.select(approval.c.tenant, approval.c.task_id).where(_PENDING).distinct()
        async with self._database.autocommit() as connection:
            return {(row.tenant, row.task_id) for row in await connection.execute(query)}

    async def pending_of_task(self, tenant: str, task_id: uuid.UUID) -> list[Approval]:
        """The pending ones of one task."""
        query = sa.select(*_WITHOUT_ARGUMENTS).where(
            approval.c.tenant == tenant, approval.c.task_id == task_id, _PENDING
        )
        return await self._read(query)

    async def close(self, closed: Approval, *, status: ApprovalStatus, told: Told) -> bool:
        """End a pending one that nobody decided; False when it is not pending any more.

        The orchestrator is told of one that expired: its task waits. One that was canceled has no task left.
        """
        statement = (
            sa.update(approval)
            .where(approval.c.tenant == closed.tenant, approval.c.approval_id == closed.approval_id, _PENDING)
            .values(status=status, told=status is ApprovalStatus.CANCELED)
            .returning(approval.c.approval_id)
        )
        async with self._database.transaction() as connection:
            if (await connection.execute(statement)).one_or_none() is None:
                return False
            await _place(connection, [(closed.tenant, closed.approval_id)], [told])
        return True

    async def untold(self, *, limit: int) -> list[Approval]:
        """Those of which the orchestrator does not know how they ended, oldest change first."""
        query = (
            sa.select(*_WITHOUT_ARGUMENTS)
            .where(sa.not_(approval.c.told))
            .order_by(approval.c.position)
            .limit(limit)
        )
        return await self._read(query)

    async def tell(self, told: Approval) -> None:
        """Note that the orchestrator knows."""
        statement = (
            sa.update(approval)
            .where(approval.c.tenant == told.tenant, approval.c.approval_id == told.approval_id)
            .values(told=True)
        )
        async with self._database.autocommit() as connection:
            await connection.execute(statement)

    async def page(
        self,
        tenant: str,
        *,
        conditions: Sequence[Condition],
        before: tuple[datetime, uuid.UUID] | None,
        limit: int,
    ) -> list[Approval]:
        """Approvals that fulfil every condition, without arguments, newest first, older than a position."""
        query = (
            sa.select(*_WITHOUT_ARGUMENTS)
            .where(
                approval.c.tenant == tenant,
                *(approval.c[each.field] == each.value for each in conditions if each.operator == "="),
                *(approval.c[each.field] != each.value for each in conditions if each.operator == "!="),
            )
            .order_by(approval.c.create_time.desc(), approval.c.approval_id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(
                sa.tuple_(approval.c.create_time, approval.c.approval_id) < sa.tuple_(*before)
            )
        return await self._read(query)

    async def pending(self, tenant: str, *, after: uuid.UUID, limit: int) -> list[Approval]:
        """Pending ones of a tenant by id, after an id, without arguments."""
        query = (
            sa.select(*_WITHOUT_ARGUMENTS)
            .where(approval.c.tenant == tenant, _PENDING, approval.c.approval_id > after)
            .order_by(approval.c.approval_id)
            .limit(limit)
        )
        return await self._read(query)

    async def changes(self, tenant: str, *, after: int, limit: int) -> list[Approval]:
        """Those that changed after a position, without arguments, in the order of their last changes."""
        query = (
            sa.select(*_WITHOUT_ARGUMENTS)
            .where(approval.c.tenant == tenant, approval.c.position > after)
            .order_by(approval.c.position)
            .limit(limit)
        )
        return await self._read(query)

    async def head(self) -> tuple[uuid.UUID, int]:
        """The log's id, and the position of the last change."""
        async with self._database.autocommit() as connection:
            head = await read_head(connection)
        return head.log_id, head.position

    async def _read(self, query: sa.Select[Any]) -> list[Approval]:
        async with self._database.autocommit() as connection:
            return [_approval(row) for row in (await connection.execute(query)).mappings()]


async def _place(
    connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]], told: Sequence[Told]
) -> None:
    """Give changed rows the next positions; the log's head is the last lock."""
    head = await write_told(connection, told, events=len(keys))
    for number, (tenant, approval_id) in enumerate(keys):
        await connection.execute(
            sa.update(approval)
            .where(approval.c.tenant == tenant, approval.c.approval_id == approval_id)
            .values(position=head.first_position + number)
        )


def _to_row(new: Approval) -> Mapping[str, Any]:
    return {
        "tenant": new.tenant,
        "approval_id": new.approval_id,
        "status": new.status,
        "call_id": new.call_id,
        "task_id": new.task_id,
        "step_key": new.step_key,
        "agent": new.agent,
        "agent_version": new.agent_version,
        "agent_digest": new.agent_digest,
        "tool": new.tool,
        "tool_version": new.tool_version,
        "tool_digest": new.tool_digest,
        "argument_digest": new.argument_digest,
        "arguments_json": new.arguments_json,
        "submitters": list(new.submitters),
        "policy_ids": list(new.policy_ids),
        "decider_role": new.decider_role,
        "create_time": new.create_time,
        "expire_time": new.expire_time,
        "decider": new.decider,
        "decision_reason": new.decision_reason,
    }


def _approval(row: RowMapping) -> Approval:
    fields = {name: row[name] for name in row if name != "now"}
    return Approval(
        **fields
        | {
            "status": ApprovalStatus(row["status"]),
            "submitters": tuple(row["submitters"]),
            "policy_ids": tuple(row["policy_ids"]),
        }
    )
