"""The hub and the watchers it feeds, with a log in memory that fails when it is told to."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest

from interlock.common.v1.errors_pb2 import ErrorReason
from orchestrator_svc.cursors import Mark, event_digest, mark_after
from orchestrator_svc.hub import Hub
from orchestrator_svc.lifecycle import Status, TaskState
from orchestrator_svc.records import (
    AgentPin,
    Event,
    EventType,
    History,
    Isolation,
    LogPlace,
    Occurrence,
    StoredEvent,
    Submitter,
    Task,
    TaskKey,
)
from orchestrator_svc.retry import RetryPolicy
from orchestrator_svc.watch import Update, UpToDate, Watches
from svc_kit.errors import DomainError, Unavailable
from svc_kit.wakeup import Subscription

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LOG = uuid.UUID(int=7)
TASK = uuid.UUID("01900000-0000-7000-8000-000000000001")


class Log:
    """Events of one task, readable as the store is."""

    def __init__(self) -> None:
        self.events: list[StoredEvent] = []
        self.away = False
        self.tail_reads = 0
        self.woken = Subscription()
        self.add()

    def add(self, state: TaskState = TaskState.RUNNING) -> None:
        number = len(self.events) + 1
        event = Event(
            task_id=TASK,
            tenant="default",
            revision=number,
            type=EventType.STATE_CHANGED,
            state=state,
            wait_reason=None,
            attempt=1,
        )
        self.events.append(StoredEvent(event=event, position=number + 100, time=NOW))
        self.woken.wake()

    async def head(self) -> Mark:
        return mark_after(LOG, self.events[-1])

    async def place(self, position: int) -> LogPlace:
        named = [event for event in self.events if event.position == position]
        digest = event_digest(TASK, named[0].event.revision) if named else None
        return LogPlace(log_id=LOG, head=self.events[-1].position, edge=0, event=digest)

    async def tasks(self, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Task]:
        return {each: self.task("default") for each in task_ids}

    async def tail(self, *, start: int, limit: int) -> list[Occurrence]:
        self.tail_reads += 1
        if self.away:
            raise Unavailable(ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE, "away")
        await asyncio.sleep(0)
        found = [event for event in self.events if event.position >= start][:limit]
        return [Occurrence(stored=event, was=None) for event in found]

    async def histories(self, asked: Sequence[History], *, limit: int) -> dict[History, list[StoredEvent]]:
        await asyncio.sleep(0)
        return {
            each: [event for event in self.events if event.event.revision > each.after][:limit]
            for each in asked
        }

    async def find(self, keys: Sequence[TaskKey]) -> dict[TaskKey, Task]:
        return {key: self.task(key[0]) for key in keys}

    def task(self, tenant: str) -> Task:
        last = self.events[-1].event
        return Task(
            task_id=TASK,
            tenant=tenant,
            agent=AgentPin(
                name="a",
                version="1.0.0",
                digest="d",
                isolation=Isolation.PLAN,
                retry=RetryPolicy(),
                start_to_close=1,
            ),
            task_type="",
            labels={},
            submitters=(Submitter(tenant=tenant, subject="ada", roles=()),),
            retried_from=None,
            status=Status(state=last.state, run_after=NOW),
            revision=last.revision,
            create_time=NOW,
            start_time=None,
            end_time=None,
        )


class Silent:
    """Attempts that say nothing."""

    def listening(self, task_id: uuid.UUID, listener: object) -> AbstractContextManager[None]:
        raise AssertionError("nobody asked for progress")


@asynccontextmanager
async def watching(log: Log, *, buffer: int = 100, after: int = 1) -> AsyncIterator[AsyncIterator[Update]]:
    hub = Hub(log, log.woken, buffer=buffer, list_buffer=buffer, poll=0.05)
    watches = Watches(hub=hub, progress=Silent(), store=log, bookmark_seconds=0.05)
    running = asyncio.create_task(hub.run())
    stream = watches.watch("default", TASK, after=after)
    try:
        yield stream
    finally:
        await stream.aclose()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert hub.watchers == 0


def revisions(updates: list[Update]) -> list[int]:
    return [update.event.revision for update in updates if isinstance(update, StoredEvent)]


async def next_event(stream: AsyncIterator[Update]) -> int:
    async with asyncio.timeout(5):
        while True:
            update = await anext(stream)
            if isinstance(update, StoredEvent):
                return update.event.revision


async def test_a_watcher_that_takes_nothing_is_ended_with_the_revision_it_has() -> None:
    log = Log()
    async with watching(log, buffer=4) as stream:
        assert isinstance(await anext(stream), UpToDate)
        for _ in range(20):
            log.add()
        for _ in range(10):
            await asyncio.sleep(0.01)
        got = [await next_event(stream) for _ in range(4)]
        with pytest.raises(DomainError) as caught:
            await anext(stream)
    assert got == [2, 3, 4, 5]
    assert caught.value.reason_name == "SLOW_CONSUMER"
    assert caught.value.metadata == {"after_revision": "5"}


async def test_more_history_than_the_buffer_holds_is_read_and_not_lost() -> None:
    log = Log()
    for _ in range(1200):
        log.add()
    async with watching(log, buffer=4) as stream:
        got = []
        for n in range(1250):
            if n < 50:
                log.add()  # arrives while the watcher still reads its history
            got.append(await next_event(stream))
    assert got == list(range(2, 1252))


async def test_a_hub_that_could_not_read_for_a_while_goes_on_where_it_stood() -> None:
    log = Log()
    async with watching(log) as stream:
        await anext(stream)
        log.away = True
        log.add()
        log.add()
        await asyncio.sleep(0.3)
        log.away = False
        assert [await next_event(stream), await next_event(stream)] == [2, 3]


async def test_a_terminal_event_ends_the_stream() -> None:
    log = Log()
    async with watching(log) as stream:
        await anext(stream)
        log.add()
        log.add(TaskState.COMPLETED)
        got = [update async for update in stream]
    assert revisions(got) == [2, 3]


async def test_without_watchers_the_log_is_not_read() -> None:
    log = Log()
    hub = Hub(log, log.woken, buffer=4, list_buffer=4, poll=0.01)
    running = asyncio.create_task(hub.run())
    for _ in range(5):
        log.add()
        await asyncio.sleep(0.02)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert log.tail_reads == 0
