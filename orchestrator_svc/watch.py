"""Watching tasks: one reader of the log per process, and any number of watchers fed by it."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

import structlog

from orchestrator_svc.errors import cursor_invalid, slow_consumer, task_not_found
from orchestrator_svc.records import StoredEvent, Task
from svc_kit.errors import Unavailable
from svc_kit.wakeup import Subscription

log = structlog.get_logger(__name__)

_SLICE = 500
_FAILED_SECONDS = 0.2


class EventStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def position(self) -> int: ...
    async def tail(self, *, after: int, limit: int) -> list[StoredEvent]: ...
    async def history(
        self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int
    ) -> list[StoredEvent]: ...


class TaskReader(Protocol):
    """Reads single tasks."""

    async def find(self, tenant: str, task_id: uuid.UUID) -> Task | None: ...


@dataclass(frozen=True, slots=True)
class UpToDate:
    """Nothing happened after this revision."""

    revision: int


Update = Task | StoredEvent | UpToDate


class Tail:
    """The live events of one task for one watcher, in a bounded buffer.

    When the watcher takes less than comes, `overflowed` is set and nothing more is kept: the store has it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[StoredEvent] = deque()
        self._arrived = asyncio.Event()
        self.overflowed = False

    def put(self, event: StoredEvent) -> None:
        """Called by the hub; never waits."""
        if self.overflowed:
            return
        if len(self._events) == self._limit:
            self.overflowed = True
        else:
            self._events.append(event)
        self._arrived.set()

    def take(self) -> StoredEvent | None:
        """The next event, if there is one."""
        return self._events.popleft() if self._events else None

    def restart(self) -> None:
        """Forget what is buffered; the watcher reads it from the store."""
        self._events.clear()
        self.overflowed = False
        self._arrived.clear()

    async def wait(self, seconds: float) -> bool:
        """Whether something arrived within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return False
        self._arrived.clear()
        return True


class Hub:
    """Reads every new event once and hands it to the watchers of its task.

    It reads while there are watchers, and begins at the end of the log as it stood before the first of them
    read its history: so each event is in a watcher's history, or comes through here, or both.
    """

    def __init__(self, store: EventStore, woken: Subscription, *, buffer: int, poll: float = 1.0) -> None:
        self._store = store
        self._woken = woken
        self._buffer = buffer
        self._poll = poll
        self._tails: dict[uuid.UUID, set[Tail]] = {}
        self._cursor: int | None = None
        self._starting = asyncio.Lock()

    @property
    def watchers(self) -> int:
        """How many there are."""
        return sum(len(tails) for tails in self._tails.values())

    async def join(self, task_id: uuid.UUID) -> Tail:
        """A tail of the task's events from now on; give it back with `leave`."""
        tail = Tail(self._buffer)
        self._tails.setdefault(task_id, set()).add(tail)
        try:
            async with self._starting:
                if self._cursor is None:
                    self._cursor = await self._store.position()
                    self._woken.wake()
        except BaseException:
            self.leave(task_id, tail)
            raise
        return tail

    def leave(self, task_id: uuid.UUID, tail: Tail) -> None:
        """The watcher is gone."""
        tails = self._tails.get(task_id, set())
        tails.discard(tail)
        if not tails:
            self._tails.pop(task_id, None)

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            try:
                more = await self._read()
            except Unavailable:
                more = False
                await asyncio.sleep(_FAILED_SECONDS)
            except Exception:
                log.exception("watch_hub_failed")
                more = False
                await asyncio.sleep(_FAILED_SECONDS)
            if not more:
                await self._woken.wait(self._poll)

    async def _read(self) -> bool:
        """Hand out a slice; whether there may be more."""
        if not self._tails:
            self._cursor = None
        if self._cursor is None:
            return False
        events = await self._store.tail(after=self._cursor, limit=_SLICE)
        for event in events:
            for tail in self._tails.get(event.event.task_id, ()):
                tail.put(event)
        if events:
            self._cursor = events[-1].position
        return len(events) == _SLICE


class Watches:
    """Streams of updates, without gaps and without repeats."""

    def __init__(self, *, hub: Hub, events: EventStore, tasks: TaskReader, bookmark_seconds: float) -> None:
        self._hub = hub
        self._events = events
        self._tasks = tasks
        self._bookmark_seconds = bookmark_seconds

    async def watch(self, tenant: str, task_id: uuid.UUID, *, after: int) -> AsyncGenerator[Update]:
        """`after` 0: the task, then what follows; k: what follows revision k. Ends after a terminal event.

        Raises TASK_NOT_FOUND, CURSOR_INVALID or SLOW_CONSUMER.
        """
        tail = await self._hub.join(task_id)
        try:
            task = await self._tasks.find(tenant, task_id)
            if task is None:
                raise task_not_found(task_id)
            if after > task.revision:
                raise cursor_invalid(after, task.revision)
            if after == 0:
                yield task
            if task.status.state.terminal and after in (0, task.revision):
                return
            revision = after or task.revision
            async for update in self._follow(
                tenant, task_id, tail, revision, behind=revision < task.revision
            ):
                yield update
                if isinstance(update, StoredEvent) and update.event.state.terminal:
                    return
        finally:
            self._hub.leave(task_id, tail)

    async def _follow(
        self, tenant: str, task_id: uuid.UUID, tail: Tail, revision: int, *, behind: bool
    ) -> AsyncGenerator[StoredEvent | UpToDate]:
        """What follows `revision`; `behind` says that some of it was there before the tail was joined."""
        while True:
            if behind:
                async for event in self._catch_up(tenant, task_id, tail, revision):
                    revision = event.event.revision
                    yield event
                behind = False
            live = tail.take()
            if live is None:
                if tail.overflowed:
                    raise slow_consumer(revision)
                if not await tail.wait(self._bookmark_seconds):
                    yield UpToDate(revision)
            elif live.event.revision == revision + 1:
                revision += 1
                yield live
            else:
                # Either it was in the history, or something before it got lost in the buffer.
                behind = live.event.revision > revision

    async def _catch_up(
        self, tenant: str, task_id: uuid.UUID, tail: Tail, revision: int
    ) -> AsyncGenerator[StoredEvent]:
        """What the store holds after `revision`; what the buffer lost meanwhile is read as well."""
        while True:
            if tail.overflowed:
                tail.restart()
            events = await self._events.history(tenant, task_id, after=revision, limit=_SLICE)
            for event in events:
                revision = event.event.revision
                yield event
            if len(events) < _SLICE and not tail.overflowed:
                return
