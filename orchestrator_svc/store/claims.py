"""Handing out runnable tasks."""

import uuid
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.records import NewClaim, Runnable, Session
from orchestrator_svc.store.rows import LOCKED_COLUMNS, to_locked
from orchestrator_svc.store.sessions import to_session
from orchestrator_svc.store.write import write_changes
from svc_kit.database import Database

_FINISHED = (
    "(SELECT coalesce(array_agg(step_key ORDER BY ordinal), '{}') FROM task_step"
    " WHERE task.attempt > 0 AND task_step.task_id = task.task_id"
    " AND task_step.status IN ('COMPLETED', 'FAILED')) AS finished"
)
# Key share: a session cannot be ended while tasks are handed to it, and heartbeats do not wait for claims.
_SESSIONS = sa.text(
    "SELECT worker_session.*, asked.claim_id, claim.claim_id IS NOT NULL AS answered FROM worker_session"
    " JOIN unnest(CAST(:session_ids AS uuid[]), CAST(:claim_ids AS uuid[])) AS asked (session_id, claim_id)"
    " USING (session_id) LEFT JOIN claim USING (claim_id, session_id)"
    " WHERE end_time IS NULL ORDER BY session_id FOR KEY SHARE OF worker_session"
)
_REPLAY = sa.text(
    f"SELECT claim.claim_id, claim.attempt AS claimed, {LOCKED_COLUMNS},"  # noqa: S608
    f" task.input, {_FINISHED}, clock_timestamp() AS now FROM claim JOIN task USING (task_id, tenant)"
    " WHERE claim_id = ANY(CAST(:claim_ids AS uuid[]))"
)
_PICK = sa.text(
    f"SELECT {LOCKED_COLUMNS}, task.input, {_FINISHED}, clock_timestamp() AS now FROM task"  # noqa: S608
    " WHERE task.state = 'SUBMITTED' AND task.pool = :pool AND task.run_after <= clock_timestamp()"
    " AND task.tenant = ANY(CAST(:tenants AS text[]))"
    " ORDER BY task.run_after, task.task_id LIMIT :limit FOR UPDATE OF task SKIP LOCKED"
)


class ClaimStore:
    """Sessions, earlier answers and runnable tasks, on the transaction that the caller holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the methods below."""
        return self._database.transaction()

    async def hold_sessions(
        self, connection: AsyncConnection, keys: Sequence[tuple[uuid.UUID, uuid.UUID]]
    ) -> tuple[dict[uuid.UUID, Session], set[uuid.UUID]]:
        """For (session id, claim id): the sessions that have not ended, and the claim ids answered before.

        The sessions will not end before the transaction does.
        """
        parameters = {
            "session_ids": [session_id for session_id, _ in keys],
            "claim_ids": [claim_id for _, claim_id in keys],
        }
        rows = (await connection.execute(_SESSIONS, parameters)).all()
        sessions = {row.session_id: to_session(row) for row in rows}
        return sessions, {row.claim_id for row in rows if row.answered}

    async def replays(
        self, connection: AsyncConnection, claim_ids: Collection[uuid.UUID]
    ) -> dict[uuid.UUID, Runnable]:
        """By claim id, what it was answered with."""
        rows = (await connection.execute(_REPLAY, {"claim_ids": list(claim_ids)})).all()
        return {
            row.claim_id: Runnable(
                task=to_locked(row),
                input_json=row.input,
                finished_steps=tuple(row.finished),
                attempt=row.claimed,
            )
            for row in rows
        }

    async def pick(
        self, connection: AsyncConnection, pool: str, tenants: Collection[str], limit: int
    ) -> list[Runnable]:
        """Up to `limit` tasks that have waited longest, locked; tasks that others hold are passed over."""
        parameters = {"pool": pool, "tenants": sorted(tenants), "limit": limit}
        rows = (await connection.execute(_PICK, parameters)).all()
        return [
            Runnable(task=to_locked(row), input_json=row.input, finished_steps=tuple(row.finished))
            for row in rows
        ]

    async def write(
        self, connection: AsyncConnection, accepted: Sequence[TaskChanges], claims: Sequence[NewClaim]
    ) -> None:
        """Write the attempts that began; the last statement of the transaction."""
        await write_changes(connection, accepted, claims)
