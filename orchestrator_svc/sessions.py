"""Worker sessions: a lease over every attempt of one worker process."""

import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import session_not_found
from orchestrator_svc.failures import log_failures
from orchestrator_svc.lapses import Lapses
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import AttemptRef, LiveAttempt, LockedTask, Session
from orchestrator_svc.undisturbed import undisturbed

log = structlog.get_logger(__name__)

# Whose act it is when a worker's death ends an attempt.
REAPER = "interlock-orchestrator"


class SessionStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock_slot(
        self, connection: AsyncConnection, session: Session
    ) -> list[tuple[Session, bool]]: ...
    async def open(self, connection: AsyncConnection, session: Session, lease: float) -> None: ...
    async def renew(self, session_id: uuid.UUID, subject: str, lease: float) -> bool: ...
    async def attempts(self, session_id: uuid.UUID) -> dict[AttemptRef, LiveAttempt]: ...
    async def lapses(self) -> Lapses: ...
    async def lock_expired(self, connection: AsyncConnection, limit: int) -> list[Session]: ...
    async def lock_silent(self, connection: AsyncConnection, session_id: uuid.UUID) -> Session | None: ...
    async def end(
        self, connection: AsyncConnection, session_ids: Collection[uuid.UUID]
    ) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Sessions:
    """Opens, renews and ends sessions; times in seconds."""

    def __init__(self, *, store: SessionStore, announcer: Announcer, lease: float) -> None:
        self._store = store
        self._announcer = announcer
        self.lease = lease

    @undisturbed
    async def open(self, session: Session) -> None:
        """Open the session, or take it up again; the older sessions of the slot are over by that.

        Raises SESSION_NOT_FOUND when the session has ended, is another worker's, or a newer process has the
        slot.
        """
        async with self._store.transaction() as connection:
            known = await self._store.lock_slot(connection, session)
            if any(_forbids(other, session, ended=ended) for other, ended in known):
                raise session_not_found(session.session_id)
            replaced = [other for other, _ in known if other.session_id != session.session_id]
            await self._store.open(connection, session, self.lease)
            # Another session of the same incarnation is the same process, which gave the older one up.
            dead = {other.session_id for other in replaced if other.incarnation != session.incarnation}
            accepted = await self._end(connection, replaced, dead=dead)
        if replaced:
            log.info("session_replaced", slot=session.slot, incarnation=session.incarnation)
        self._announce(accepted)

    async def renew(self, session_id: uuid.UUID, subject: str) -> None:
        """A heartbeat came; SESSION_NOT_FOUND when the session has ended."""
        if not await self._store.renew(session_id, subject, self.lease):
            raise session_not_found(session_id)

    async def attempts(self, session_id: uuid.UUID) -> dict[AttemptRef, LiveAttempt]:
        """Every live attempt of the session."""
        return await self._store.attempts(session_id)

    async def lapses(self) -> Lapses:
        """How many sessions are open, and the lease of how many of them has run out."""
        return await self._store.lapses()

    @undisturbed
    async def end_expired(self, limit: int) -> int:
        """End sessions whose lease ran out, up to `limit`; how many there were."""
        async with self._store.transaction() as connection:
            expired = await self._store.lock_expired(connection, limit)
            dead = {session.session_id for session in expired}
            accepted = await self._end(connection, expired, dead=dead)
        for session in expired:
            _say_lost(session)
        self._announce(accepted)
        return len(expired)

    async def end_silent(
        self, connection: AsyncConnection, session_id: uuid.UUID
    ) -> list[TaskChanges] | None:
        """End one session within the caller's transaction; None when its lease has not run out.

        What became of the tasks aboard is to be told by `ended` once that is committed.
        """
        session = await self._store.lock_silent(connection, session_id)
        if session is None:
            return None
        return await self._end(connection, [session], dead={session_id})

    def ended(self, session: Session, accepted: Sequence[TaskChanges]) -> None:
        """The end of a silent session was committed."""
        _say_lost(session)
        self._announce(accepted)

    async def _end(
        self, connection: AsyncConnection, sessions: Sequence[Session], *, dead: Collection[uuid.UUID]
    ) -> list[TaskChanges]:
        """End locked sessions with their attempts; what became of the tasks aboard.

        `dead` are those whose process has died.
        """
        if not sessions:
            return []
        aboard = await self._store.end(connection, [session.session_id for session in sessions])
        guilty = {_guilty(aboard, session_id) for session_id in dead}
        accepted = []
        for task in aboard:
            changes = TaskChanges(task)
            ending = lifecycle.lose(
                task.status,
                blamed=task.task_id in guilty,
                died=task.session_id in dead,
                now=task.now,
            )
            changes.end_attempt(ending, actor=REAPER)
            accepted.append(changes)
        if accepted:
            await self._store.write(connection, accepted)
        return accepted

    def _announce(self, accepted: Sequence[TaskChanges]) -> None:
        if accepted:
            metrics.count_finished(accepted)
            log_failures(accepted)
            waiting = (each.task for each in accepted if each.task.status.state is TaskState.SUBMITTED)
            self._announcer.committed(runnable=Counter(task.pool for task in waiting))


def _say_lost(session: Session) -> None:
    log.warning("session_lost", session_id=str(session.session_id), worker=session.worker)


def _guilty(aboard: Sequence[LockedTask], session_id: uuid.UUID) -> uuid.UUID | None:
    """The task that the death of a session's process is put down to, if one is."""
    there = [task for task in aboard if task.session_id == session_id]
    place = lifecycle.blamed([task.status for task in there])
    return there[place].task_id if place is not None else None


def _forbids(other: Session, asking: Session, *, ended: bool) -> bool:
    if other.session_id == asking.session_id:
        return ended or (other.subject, other.slot) != (asking.subject, asking.slot)
    # Of the same incarnation is the same process, which gave the other session up when it heard no answer.
    return other.incarnation > asking.incarnation
