"""Ends what has run out: leases of silent workers, and every clock on a task. One process at a time."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.failures import log_failures
from orchestrator_svc.lapses import LapseGuard, Lapses
from orchestrator_svc.lifecycle import Ending
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

    async def lapses(self) -> Lapses: ...
    async def end_expired(self, limit: int) -> int: ...


class Reaper:
    """Looks once a second.

    While this service or the database was away no heartbeat could be heard, so a lease that ran out meanwhile
    says nothing: after a start, and after each outage of the database, every session gets a full lease. When
    more than `share` of the sessions fall silent at once, none is ended and the alarm is given; see
    LapseGuard.
    """

    def __init__(
        self,
        *,
        sessions: Leases,
        store: OverdueStore,
        announcer: Announcer,
        share: float,
        interval: float = 1.0,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._announcer = announcer
        self._guard = LapseGuard(share=share, lease=sessions.lease)
        self._interval = interval
        self._chance = chance
        self._monotonic = monotonic

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        patient_until = self._monotonic() + self._sessions.lease
        while True:
            try:
                if self._monotonic() >= patient_until:
                    await self.end_sessions()
                while await self.end_overdue() == _TASKS_A_SLICE:
                    pass
            except Unavailable:
                patient_until = self._monotonic() + self._sessions.lease
            except Exception:
                log.exception("reaper_failed")
            await asyncio.sleep(self._interval)

    async def end_sessions(self) -> None:
        """End every session whose lease ran out, unless too many have lapsed at once."""
        seen = await self._sessions.lapses()
        alarmed = self._guard.alarmed
        if not self._guard.may_end(seen, self._monotonic()):
            if not alarmed:
                log.error(
                    "sessions_lapsed_together",
                    open=seen.open,
                    lapsed=seen.lapsed,
                    help="none is ended: see whether the workers reach the orchestrator; when the others are"
                    " heard for a whole lease, the silent ones are taken for dead",
                )
                metrics.REAPER_STOPPED.set(1)
            return
        if alarmed:
            log.info("sessions_reaped_again", open=seen.open, lapsed=seen.lapsed)
        metrics.REAPER_STOPPED.set(0)
        while seen.lapsed and await self._sessions.end_expired(_SESSIONS_A_SLICE) == _SESSIONS_A_SLICE:
            pass

    @undisturbed
    async def end_overdue(self) -> int:
        """End a slice of the tasks on which a clock has run out; how many were looked at."""
        async with self._store.transaction() as connection:
            overdue = await self._store.lock_overdue(connection, _TASKS_A_SLICE)
            accepted = [changes for task in overdue if (changes := self._ended(task)).events]
            if accepted:
                await self._store.write(connection, accepted)
        if accepted:
            metrics.count_finished(accepted)
            log_failures(accepted)
            self._announcer.committed(runnable={})
            for session_id in {task.session_id for task in overdue if task.session_id is not None}:
                self._announcer.directed(session_id)
        return len(overdue)

    def _ended(self, task: LockedTask) -> TaskChanges:
        changes = TaskChanges(task)
        end = lifecycle.end_overdue(
            task.status,
            close_by=task.close_by,
            seconds=task.seconds,
            policy=task.agent.retry,
            now=task.now,
            chance=self._chance(),
        )
        if isinstance(end, Ending):
            changes.end_attempt(end, actor=REAPER)
        elif end is not None:
            changes.give_up(end, actor=REAPER)
        return changes
