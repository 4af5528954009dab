"""Workers as operators see them: who serves a tenant, and who is to take nothing more."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import worker_alive, worker_not_found, worker_shared
from orchestrator_svc.records import Session
from orchestrator_svc.undisturbed import undisturbed


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker process with an open session; `serves` are pairs of tenant and pool."""

    session: Session
    serves: tuple[tuple[str, str], ...]
    draining: bool
    running: Mapping[str, int]  # by tenant
    start_time: datetime
    lease_until: datetime
    silent: bool


class WorkerStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def page(self, tenant: str, *, after: uuid.UUID | None, limit: int) -> list[Worker]: ...
    async def lock(
        self, connection: AsyncConnection, tenant: str, session_id: uuid.UUID
    ) -> Worker | None: ...
    async def set_draining(
        self, connection: AsyncConnection, session_id: uuid.UUID, *, draining: bool
    ) -> None: ...
    async def tell(self, connection: AsyncConnection, tenant: str, told: Mapping[str, str]) -> None: ...
    async def find(self, tenant: str, session_id: uuid.UUID) -> Worker | None: ...


class Ends(Protocol):
    """Ends sessions."""

    async def end_silent(
        self, connection: AsyncConnection, session_id: uuid.UUID
    ) -> list[TaskChanges] | None: ...
    def ended(self, session: Session, accepted: Sequence[TaskChanges]) -> None: ...


class Workers:
    """Workers that serve a tenant."""

    def __init__(self, *, store: WorkerStore, sessions: Ends, announcer: Announcer) -> None:
        self._store = store
        self._sessions = sessions
        self._announcer = announcer

    async def page(self, tenant: str, *, after: uuid.UUID | None, limit: int) -> list[Worker]:
        """Workers by session, after one."""
        return await self._store.page(tenant, after=after, limit=limit)

    @undisturbed
    async def set_draining(
        self, tenant: str, session_id: uuid.UUID, *, draining: bool, actor: str, everywhere: bool
    ) -> Worker:
        """The worker after the request; `everywhere` says that the caller may act for every tenant.

        Raises WORKER_NOT_FOUND, or TENANT_FORBIDDEN when it serves others too.
        """
        async with self._store.transaction() as connection:
            worker = await self._held(connection, tenant, session_id, everywhere=everywhere)
            if worker.draining != draining:
                await self._store.set_draining(connection, session_id, draining=draining)
                action = "DRAIN_WORKER" if draining else "RESUME_WORKER"
                told = {"action": action, "actor": actor, "worker": worker.session.worker}
                await self._store.tell(connection, tenant, told)
        pools = () if draining else worker.session.pools
        self._announcer.committed(runnable=dict.fromkeys(pools, 1))
        self._announcer.directed(session_id)
        found = await self._store.find(tenant, session_id)
        if found is None:
            raise worker_not_found(session_id)
        return found

    @undisturbed
    async def end(self, tenant: str, session_id: uuid.UUID, *, actor: str, everywhere: bool) -> int:
        """Take a silent worker for dead; how many tasks it ran.

        Raises WORKER_NOT_FOUND, WORKER_ALIVE, or TENANT_FORBIDDEN when it serves others too.
        """
        async with self._store.transaction() as connection:
            worker = await self._held(connection, tenant, session_id, everywhere=everywhere)
            accepted = await self._sessions.end_silent(connection, session_id)
            if accepted is None:
                raise worker_alive(session_id)
            told = {"action": "END_WORKER", "actor": actor, "worker": worker.session.worker}
            await self._store.tell(connection, tenant, told)
        self._sessions.ended(worker.session, accepted)
        return len(accepted)

    async def _held(
        self, connection: AsyncConnection, tenant: str, session_id: uuid.UUID, *, everywhere: bool
    ) -> Worker:
        worker = await self._store.lock(connection, tenant, session_id)
        if worker is None:
            raise worker_not_found(session_id)
        if not everywhere and any(served != tenant for served, _ in worker.serves):
            raise worker_shared(session_id)
        return worker
