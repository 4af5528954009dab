"""Parents go on when a child has ended, and children end with their parents. One process at a time.

Nothing but what the tasks' own rows say is looked at, so a pass that is missed or killed is made up for
by the next one.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.records import LockedTask
from orchestrator_svc.sessions import REAPER
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

_SLICE = 100


class ChildStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock_waiting(self, connection: AsyncConnection, limit: int) -> list[LockedTask]: ...
    async def lock_orphans(self, connection: AsyncConnection, limit: int) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Woken(Protocol):
    """Says that a child or a parent may have ended."""

    async def wait(self, timeout: float = ...) -> bool:
        """Return when woken, or after `timeout` seconds."""


class Families:
    """Looks when it is woken, and once a second."""

    def __init__(
        self, *, store: ChildStore, announcer: Announcer, woken: Woken, grace: float, interval: float = 1.0
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._woken = woken
        self._grace = grace  # seconds in which an attempt has to wind up
        self._interval = interval

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            try:
                while await self.wake_parents() == _SLICE:
                    pass
                # Each slice may bring the next generation.
                while await self.close_children():
                    pass
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("families_failed")
            await self._woken.wait(self._interval)

    @undisturbed
    async def wake_parents(self) -> int:
        """Let a slice of those go on that waited for a child which has ended; how many there were."""
        async with self._store.transaction() as connection:
            found = await self._store.lock_waiting(connection, _SLICE)
            accepted = []
            for task in found:
                status = lifecycle.child_ended(task.status)
                if status != task.status:
                    changes = TaskChanges(task)
                    changes.move(status, actor=REAPER)
                    accepted.append(changes)
            if accepted:
                await self._store.write(connection, accepted)
        if accepted:
            self._announcer.committed(runnable=Counter(each.task.pool for each in accepted))
        return len(found)

    @undisturbed
    async def close_children(self) -> int:
        """Cancel a slice of the tasks whose parents have ended or are ending; how many there were."""
        async with self._store.transaction() as connection:
            found = await self._store.lock_orphans(connection, _SLICE)
            accepted = []
            for task in found:
                if task.status.state.terminal:
                    continue  # it has ended while its lock was waited for
                changes = TaskChanges(task)
                changes.move(lifecycle.cancel(task.status, now=task.now, grace=self._grace), actor=REAPER)
                accepted.append(changes)
            if accepted:
                await self._store.write(connection, accepted)
        if accepted:
            metrics.count_finished(accepted)
            self._announcer.committed(runnable={})
            for session_id in {each.task.session_id for each in accepted}:
                if session_id is not None:
                    self._announcer.directed(session_id)
        return len(accepted)
