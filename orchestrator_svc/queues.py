"""Queues: made, changed, paused, emptied; each change is told to the audit log."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import (
    queue_exists,
    queue_is_permanent,
    queue_not_empty,
    queue_not_found,
    queue_stale,
)
from orchestrator_svc.placement import DEFAULT_QUEUE
from orchestrator_svc.records import LockedTask
from orchestrator_svc.tasks import cancel
from orchestrator_svc.undisturbed import undisturbed

_PURGED_A_SLICE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A bucket of `burst` tokens into which `count` come in every `seconds`."""

    count: int
    seconds: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Where tasks wait, and what limits them; None = no limit. A `version` of 0 was never stored."""

    tenant: str
    name: str
    pool: str
    description: str = ""
    paused: bool = False
    max_running: int | None = None
    max_running_per_key: int = 1
    max_waiting: int | None = None
    rate: RateLimit | None = None
    version: int = 0
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return str(self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """What a queue looks like now; counts go up to one above the bound. Seconds."""

    waiting: int
    running: int
    oldest_wait: float | None
    ended_last_minute: int
    workers: int


class QueueStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def create(self, connection: AsyncConnection, queue: Queue) -> Queue | None: ...
    async def find(self, tenant: str, name: str) -> Queue | None: ...
    async def page(self, tenant: str, *, after: str, limit: int) -> list[Queue]: ...
    async def lock(self, connection: AsyncConnection, tenant: str, name: str) -> Queue | None: ...
    async def save(self, connection: AsyncConnection, queue: Queue) -> Queue: ...
    async def in_use(self, connection: AsyncConnection, queue: Queue) -> bool: ...
    async def delete(self, connection: AsyncConnection, queue: Queue) -> None: ...
    async def tell(self, connection: AsyncConnection, tenant: str, told: Mapping[str, str]) -> None: ...
    async def stats(self, queue: Queue) -> QueueStats: ...
    async def now(self) -> datetime: ...
    async def lock_waiting(
        self, connection: AsyncConnection, queue: Queue, *, until: datetime, limit: int
    ) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Queues:
    """Queues of one tenant at a time."""

    def __init__(self, *, store: QueueStore, announcer: Announcer) -> None:
        self._store = store
        self._announcer = announcer

    @undisturbed
    async def create(self, asked: Queue, *, actor: str) -> Queue:
        """The queue as made; raises NAME_TAKEN."""
        async with self._store.transaction() as connection:
            made = await self._store.create(connection, asked)
            if made is None:
                raise queue_exists(asked.name)
            await self._tell(connection, made, "CREATE_QUEUE", actor)
        self._announcer.committed(runnable={})
        return made

    async def get(self, tenant: str, name: str) -> Queue:
        """One queue; raises QUEUE_NOT_FOUND."""
        found = await self._store.find(tenant, name)
        if found is None:
            raise queue_not_found(name)
        return found

    async def stats(self, queue: Queue) -> QueueStats:
        """What it looks like now."""
        return await self._store.stats(queue)

    async def page(self, tenant: str, *, after: str, limit: int) -> list[Queue]:
        """Queues by name, after one."""
        return await self._store.page(tenant, after=after, limit=limit)

    async def update(
        self, tenant: str, name: str, change: Callable[[Queue], Queue], *, etag: str, actor: str
    ) -> Queue:
        """The queue after the change; raises QUEUE_NOT_FOUND or ETAG_MISMATCH."""
        return await self._change(tenant, name, change, etag=etag, actor=actor, action="UPDATE_QUEUE")

    async def pause(self, tenant: str, name: str, *, paused: bool, actor: str) -> Queue:
        """The queue after the request; raises QUEUE_NOT_FOUND."""
        action = "PAUSE_QUEUE" if paused else "RESUME_QUEUE"
        return await self._change(
            tenant, name, lambda queue: replace(queue, paused=paused), etag="", actor=actor, action=action
        )

    @undisturbed
    async def delete(self, tenant: str, name: str, *, etag: str, actor: str) -> None:
        """Delete a queue whose tasks have ended; raises QUEUE_NOT_FOUND, ETAG_MISMATCH or QUEUE_NOT_EMPTY."""
        if name == DEFAULT_QUEUE:
            raise queue_is_permanent()
        async with self._store.transaction() as connection:
            queue = await self._held(connection, tenant, name, etag)
            if await self._store.in_use(connection, queue):
                raise queue_not_empty(name)
            await self._store.delete(connection, queue)
            await self._tell(connection, queue, "DELETE_QUEUE", actor)
        self._announcer.committed(runnable={})

    async def purge(self, tenant: str, name: str, *, actor: str, seconds: float) -> tuple[int, bool]:
        """Cancel what waits and was there when the call came; how many, and whether some are left.

        Raises QUEUE_NOT_FOUND.
        """
        queue = await self.get(tenant, name)
        until = await self._store.now()
        loop = asyncio.get_running_loop()
        ends, purged = loop.time() + seconds, 0
        while True:
            count = await self._purge_slice(queue, until, actor)
            purged += count
            if count < _PURGED_A_SLICE:
                return purged, False
            if loop.time() >= ends:
                return purged, True

    @undisturbed
    async def _purge_slice(self, queue: Queue, until: datetime, actor: str) -> int:
        accepted = []
        async with self._store.transaction() as connection:
            for task in await self._store.lock_waiting(connection, queue, until=until, limit=_PURGED_A_SLICE):
                changes = TaskChanges(task)
                cancel(changes, actor, grace=0.0)
                accepted.append(changes)
            if accepted:
                await self._store.write(connection, accepted)
        if accepted:
            metrics.count_finished(accepted)
            self._announcer.committed(runnable={})
        return len(accepted)

    @undisturbed
    async def _change(
        self,
        tenant: str,
        name: str,
        change: Callable[[Queue], Queue],
        *,
        etag: str,
        actor: str,
        action: str,
    ) -> Queue:
        async with self._store.transaction() as connection:
            queue = await self._held(connection, tenant, name, etag)
            changed = change(queue)
            if changed == queue:
                return queue
            changed = await self._store.save(connection, changed)
            await self._tell(connection, changed, action, actor)
        # What a limit or a pause held back may be able to run now.
        self._announcer.committed(runnable={changed.pool: 1})
        return changed

    async def _held(self, connection: AsyncConnection, tenant: str, name: str, etag: str) -> Queue:
        queue = await self._store.lock(connection, tenant, name)
        if queue is None:
            raise queue_not_found(name)
        if etag and etag != queue.etag:
            raise queue_stale(name)
        return queue

    async def _tell(self, connection: AsyncConnection, queue: Queue, action: str, actor: str) -> None:
        told = {"action": action, "actor": actor, "queue": queue.name, "pool": queue.pool}
        rate = queue.rate
        limits = {
            "paused": str(queue.paused).lower(),
            "max_running": str(queue.max_running or 0),
            "max_running_per_key": str(queue.max_running_per_key),
            "max_waiting": str(queue.max_waiting or 0),
            "rate_limit": f"{rate.count} in {rate.seconds:g} s, burst {rate.burst}" if rate else "none",
        }
        await self._store.tell(connection, queue.tenant, told | limits)
