"""Open sessions, as operators see them."""

import uuid
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.store.queues import tell
from orchestrator_svc.store.rows import AnyRow
from orchestrator_svc.store.sessions import to_session
from orchestrator_svc.undisturbed import undisturbed
from orchestrator_svc.workers import Worker
from svc_kit.database import Database

_RUNNING = (
    "(SELECT coalesce(jsonb_object_agg(tenant, n), '{}') FROM (SELECT tenant, count(*) AS n FROM task"
    " WHERE task.session_id = worker_session.session_id GROUP BY tenant) AS live) AS running"
)
_HEARD = "lease_until < clock_timestamp() AS silent"
_SERVING = (
    "end_time IS NULL AND serves @> jsonb_build_array(jsonb_build_object('tenant', CAST(:tenant AS text)))"
)
_PAGE = sa.text(
    f"SELECT *, {_RUNNING}, {_HEARD} FROM worker_session WHERE {_SERVING}"  # noqa: S608 - parts of our own
    " AND session_id > :after ORDER BY session_id LIMIT :limit"
)
_FIND = sa.text(
    f"SELECT *, {_RUNNING}, {_HEARD} FROM worker_session WHERE {_SERVING} AND session_id = :session_id"  # noqa: S608
)
_LOCK = sa.text(
    f"SELECT *, '{{}}'::jsonb AS running, {_HEARD} FROM worker_session WHERE {_SERVING}"  # noqa: S608 - parts of our own
    " AND session_id = :session_id FOR UPDATE"
)
_DRAIN = sa.text("UPDATE worker_session SET draining = :draining WHERE session_id = :session_id")
_NIL = uuid.UUID(int=0)


class WorkerStore:
    """Sessions that have not ended and serve a tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction; lock order: sessions, the log."""
        return self._database.transaction()

    @undisturbed
    async def page(self, tenant: str, *, after: uuid.UUID | None, limit: int) -> list[Worker]:
        """Workers by session, after one."""
        parameters = {"tenant": tenant, "after": after or _NIL, "limit": limit}
        async with self._database.autocommit() as connection:
            return [_worker(row) for row in (await connection.execute(_PAGE, parameters)).all()]

    @undisturbed
    async def find(self, tenant: str, session_id: uuid.UUID) -> Worker | None:
        """One worker."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_FIND, _keys(tenant, session_id))).one_or_none()
        return _worker(row) if row is not None else None

    async def lock(self, connection: AsyncConnection, tenant: str, session_id: uuid.UUID) -> Worker | None:
        """One worker, locked; what it runs is left out."""
        row = (await connection.execute(_LOCK, _keys(tenant, session_id))).one_or_none()
        return _worker(row) if row is not None else None

    async def set_draining(
        self, connection: AsyncConnection, session_id: uuid.UUID, *, draining: bool
    ) -> None:
        """Note in a locked session whether it gets new tasks."""
        await connection.execute(_DRAIN, {"session_id": session_id, "draining": draining})

    async def tell(self, connection: AsyncConnection, tenant: str, told: Mapping[str, str]) -> None:
        """Tell the audit log; the last statements of the transaction."""
        await tell(connection, tenant, told)


def _keys(tenant: str, session_id: uuid.UUID) -> dict[str, Any]:
    return {"tenant": tenant, "session_id": session_id}


def _worker(row: AnyRow) -> Worker:
    return Worker(
        session=to_session(row),
        serves=tuple((each["tenant"], each["pool"]) for each in row.serves),
        draining=row.draining,
        running=row.running,
        start_time=row.start_time,
        lease_until=row.lease_until,
        silent=row.silent,
    )
