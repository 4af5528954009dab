"""Watching one task: a stream of updates without gaps and without repeats."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from typing import Protocol

from orchestrator_svc.errors import (
    log_replaced,
    revision_beyond,
    revision_compacted,
    slow_consumer,
    task_not_found,
)
from orchestrator_svc.hub import Hub, Tail
from orchestrator_svc.records import History, Progress, StoredEvent, Task, TaskKey
from svc_kit.errors import OutOfRange, ResourceExhausted
from svc_kit.shared_reads import SharedReads

_SLICE = 500
# So many histories are read by one statement.
_HISTORIES = 20


class TaskEvents(Protocol):
    """What is asked of the store, which says what each does."""

    async def find(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]: ...
    async def histories(
        self, asked: Sequence[History], *, limit: int
    ) -> Mapping[History, list[StoredEvent]]: ...


class LastWords(Protocol):
    """What live attempts say of themselves."""

    def listening(
        self, task_id: uuid.UUID, listener: Callable[[Progress], None]
    ) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True)
class UpToDate:
    """Nothing happened after this revision."""

    revision: int


Update = Task | StoredEvent | UpToDate | Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events of a task, and the revision up to which they are no longer kept."""

    events: list[StoredEvent]
    compact_revision: int


class Watches:
    """Reads what has happened to single tasks, and what happens."""

    def __init__(self, *, hub: Hub, progress: LastWords, store: TaskEvents, bookmark_seconds: float) -> None:
        self._hub = hub
        self._progress = progress
        self._store = store
        self._bookmark_seconds = bookmark_seconds
        self._tasks: SharedReads[TaskKey, Task] = SharedReads(store.find)
        self._histories: SharedReads[History, list[StoredEvent]] = SharedReads(
            self._read_histories, most=_HISTORIES
        )

    async def watch(
        self, tenant: str, task_id: uuid.UUID, *, after: int, progress: bool = False
    ) -> AsyncGenerator[Update]:
        """`after` 0: the task, then what follows; k: what follows revision k. Ends after a terminal event.

        With `progress` also what the live attempt says of itself.

        Raises TASK_NOT_FOUND, CURSOR_INVALID, REVISION_COMPACTED or SLOW_CONSUMER.
        """
        tail = await self._hub.join(task_id)
        try:
            task = await self._find(tenant, task_id)
            if after > task.revision:
                raise revision_beyond(after, task.revision)
            if after == 0:
                yield task
            if task.status.state.terminal and after in (0, task.revision):
                return
            revision = after or task.revision
            with self._progress.listening(task_id, tail.say) if progress else nullcontext():
                async for update in self._follow(task, tail, revision):
                    yield update
                    if isinstance(update, StoredEvent) and update.event.state.terminal:
                        return
        finally:
            self._hub.leave(task_id, tail)

    async def until_terminal(self, tenant: str, task_id: uuid.UUID, *, seconds: float) -> None:
        """Returns when the task is terminal, or after that time; raises TASK_NOT_FOUND."""
        try:
            async with asyncio.timeout(seconds):
                while not await self._seen_to_its_end(tenant, task_id):
                    pass
        except TimeoutError:
            return

    async def _seen_to_its_end(self, tenant: str, task_id: uuid.UUID) -> bool:
        """Whether a watch came to the terminal event; else it is to begin anew, and nothing is lost by it."""
        try:
            async with aclosing(self.watch(tenant, task_id, after=0)) as updates:
                async for _ in updates:
                    pass
        except (OutOfRange, ResourceExhausted):
            return False
        return True

    async def events(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> EventPage:
        """Events of a task after a revision; raises TASK_NOT_FOUND, or REVISION_COMPACTED.

        After 0 it begins with the first that is kept.
        """
        task = await self._find(tenant, task_id)
        asked = History(tenant=tenant, task_id=task_id, after=after)
        events = list((await self._store.histories([asked], limit=limit))[asked])
        kept = events[0].event.revision if events else task.revision + 1
        if kept == after + 1 or after >= task.revision:
            return EventPage(events=events, compact_revision=0)
        if after:
            raise revision_compacted(task_id, after, kept - 1)
        return EventPage(events=events, compact_revision=kept - 1)

    async def _find(self, tenant: str, task_id: uuid.UUID) -> Task:
        task = await self._tasks.get((tenant, task_id))
        if task is None:
            raise task_not_found(task_id)
        return task

    async def _read_histories(self, asked: Sequence[History]) -> Mapping[History, list[StoredEvent]]:
        return await self._store.histories(asked, limit=_SLICE)

    async def _follow(
        self, task: Task, tail: Tail[StoredEvent], revision: int
    ) -> AsyncGenerator[StoredEvent | UpToDate | Progress]:
        """What follows `revision`; `task` was read after the tail was joined."""
        known = task.revision
        while True:
            if revision < known:
                async for event in self._catch_up(task, tail, revision, known):
                    revision = event.event.revision
                    yield event
            if tail.lost:
                raise log_replaced()
            live = tail.take()
            if live is None:
                if tail.overflowed:
                    raise slow_consumer(revision)
                if (said := tail.take_said()) is not None:
                    yield said
                elif not await tail.wait(self._bookmark_seconds):
                    yield UpToDate(revision)
            elif live.event.revision == revision + 1:
                revision += 1
                yield live
            else:
                # Either it was in the history, or something before it got lost in the buffer.
                known = max(known, live.event.revision)

    async def _catch_up(
        self, task: Task, tail: Tail[StoredEvent], revision: int, known: int
    ) -> AsyncGenerator[StoredEvent]:
        """What the store holds after `revision`, up to `known` at least.

        What the buffer lost meanwhile is read as well.
        """
        while True:
            if tail.overflowed:
                tail.restart()
            asked = History(tenant=task.tenant, task_id=task.task_id, after=revision)
            events = await self._histories.get(asked) or []
            kept = events[0].event.revision if events else known + 1
            if kept > revision + 1 and revision < known:
                raise revision_compacted(task.task_id, revision, kept - 1)
            for event in events:
                revision = event.event.revision
                yield event
            if len(events) < _SLICE and not tail.overflowed:
                return
