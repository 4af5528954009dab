"""Ends what has run out: leases of silent workers, attempts that take too long. One process at a time."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.records import LockedTask
from orchestrator_svc.sessions import REAPER
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

_SESSIONS_A_SLICE = 16
_TASKS_A_SLICE = 256


class OverdueStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock_overdue(self, connection: AsyncConnection, limit: int) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Leases(Protocol):
    """Ends sessions whose lease ran out."""

    lease: float

    async def end_expired(self, limit: int) -> int: ...


class Announcer(Protocol):
    """Told after each commit."""

    def committed(self, *, runnable: Mapping[str, int]) -> None: ...


class Reaper:
    """Looks once a second.

    While this service or the database was away no heartbeat could be heard, so a lease that ran out meanwhile
    says nothing: after a start, and after each outage of the database, every session gets a full lease.
    """

    def __init__(
        self,
        *,
        sessions: Leases,
        store: OverdueStore,
        announcer: Announcer,
        interval: float = 1.0,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._announcer = announcer
        self._interval = interval
        self._chance = chance
        self._monotonic = monotonic

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        patient_until = self._monotonic() + self._sessions.lease
        while True:
            try:
                if self._monotonic() >= patient_until:
                    while await self._sessions.end_expired(_SESSIONS_A_SLICE) == _SESSIONS_A_SLICE:
                        pass
                while await self.end_overdue() == _TASKS_A_SLICE:
                    pass
            except Unavailable:
                patient_until = self._monotonic() + self._sessions.lease
            except Exception:
                log.exception("reaper_failed")
            await asyncio.sleep(self._interval)

    @undisturbed
    async def end_overdue(self) -> int:
        """End a slice of the attempts that run longer than they may; how many there were."""
        async with self._store.transaction() as connection:
            overdue = await self._store.lock_overdue(connection, _TASKS_A_SLICE)
            accepted = []
            for task in overdue:
                changes = TaskChanges(task)
                ending = lifecycle.time_out(
                    task.status,
                    policy=task.agent.retry,
                    seconds=task.agent.start_to_close,
                    now=task.now,
                    chance=self._chance(),
                )
                changes.end_attempt(ending, actor=REAPER)
                accepted.append(changes)
            if accepted:
                await self._store.write(connection, accepted)
        if accepted:
            metrics.count_finished(accepted)
            self._announcer.committed(runnable={})
        return len(overdue)
