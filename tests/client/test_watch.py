"""A watch that breaks goes on where it was; what cannot be mended by waiting is raised."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc
import pytest

from interlock.client import Client, InterlockError
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from orchestrator_svc.errors import (
    cursor_compacted,
    log_replaced,
    registry_unavailable,
    revision_beyond,
    revision_compacted,
    slow_list_consumer,
)
from tests.client.conftest import Orchestrator

RUNNING, COMPLETED = task_pb2.TASK_STATE_RUNNING, task_pb2.TASK_STATE_COMPLETED


def event(revision: int, state: task_pb2.TaskState.ValueType = RUNNING) -> messages.WatchTaskResponse:
    return messages.WatchTaskResponse(event=task_pb2.TaskEvent(revision=revision, state=state))


def snapshot(revision: int, state: task_pb2.TaskState.ValueType = RUNNING) -> messages.WatchTaskResponse:
    return messages.WatchTaskResponse(snapshot=task_pb2.Task(revision=revision, state=state))


def bookmark(revision: int) -> messages.WatchTaskResponse:
    return messages.WatchTaskResponse(bookmark=messages.Bookmark(revision=revision))


@pytest.fixture
async def client(orchestrator: Orchestrator) -> AsyncIterator[Client]:
    async with Client({"orchestrator": orchestrator.address}, lambda: "token") as made:
        yield made


async def revisions(client: Client, after: int = 0) -> list[int]:
    return [
        update.snapshot.revision or update.event.revision
        async for update in client.watch("task", after_revision=after)
    ]


async def test_a_broken_stream_is_taken_up_after_the_last_revision_seen(
    orchestrator: Orchestrator, client: Client
) -> None:
    orchestrator.streams = [
        [snapshot(3), event(4), grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.UNAVAILABLE],
        [event(5), bookmark(5), event(6, COMPLETED)],
    ]
    assert await revisions(client) == [3, 4, 5, 6]
    assert orchestrator.asked_after == [0, 4, 4]


async def test_the_caller_hears_of_each_interruption(orchestrator: Orchestrator, client: Client) -> None:
    orchestrator.streams = [[event(2), grpc.StatusCode.UNAVAILABLE], [event(3, COMPLETED)]]
    heard: list[tuple[str, int]] = []
    async for _ in client.watch(
        "task", after_revision=1, interrupted=lambda why, revision: heard.append((why, revision))
    ):
        pass
    assert heard == [("as the script says", 2)]
    assert orchestrator.asked_after == [1, 2]


async def test_a_stream_that_ends_in_order_is_the_end(orchestrator: Orchestrator, client: Client) -> None:
    orchestrator.streams = [[bookmark(7)]]
    assert await revisions(client, after=7) == []


async def test_nothing_is_read_after_the_terminal_event(orchestrator: Orchestrator, client: Client) -> None:
    orchestrator.streams = [[snapshot(9, COMPLETED), grpc.StatusCode.UNAVAILABLE]]
    assert await revisions(client) == [9]


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.RESOURCE_EXHAUSTED],
)
async def test_what_waiting_does_not_mend_is_raised(
    orchestrator: Orchestrator, client: Client, code: grpc.StatusCode
) -> None:
    orchestrator.streams = [[code]]
    with pytest.raises(InterlockError) as caught:
        await revisions(client)
    assert caught.value.code is code


async def test_a_watch_that_begins_while_the_service_is_away_waits_for_it(tmp_path: object) -> None:
    async with Client({"orchestrator": f"unix:{tmp_path}/nobody"}, lambda: "token") as client:
        heard = asyncio.Event()
        watching = client.watch("task", interrupted=lambda _why, _revision: heard.set())
        waiting = asyncio.ensure_future(anext(watching))
        async with asyncio.timeout(20):
            await heard.wait()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_wait_returns_the_task_as_it_ended(orchestrator: Orchestrator, client: Client) -> None:
    orchestrator.failures = 2
    orchestrator.waits = [RUNNING, COMPLETED]
    assert (await client.wait("task")).state == COMPLETED


async def test_a_wait_that_takes_too_long_returns_the_task_as_it_is(
    orchestrator: Orchestrator, client: Client
) -> None:
    orchestrator.waits = [RUNNING]
    assert (await client.wait("task", timeout=0)).state == RUNNING


async def test_where_events_are_no_longer_kept_a_fresh_snapshot_comes_and_is_told(
    orchestrator: Orchestrator, client: Client
) -> None:
    compacted = revision_compacted(uuid.UUID(int=1), 2, 7)
    orchestrator.streams = [[compacted], [snapshot(9), log_replaced()], [snapshot(3, COMPLETED)]]
    told: list[int] = []
    seen = [
        update.snapshot.revision
        async for update in client.watch("task", after_revision=2, interrupted=lambda _, at: told.append(at))
    ]
    assert (seen, told, orchestrator.asked_after) == ([9, 3], [0, 0], [2, 0, 0])


async def test_a_first_revision_that_the_task_never_had_is_raised(
    orchestrator: Orchestrator, client: Client
) -> None:
    orchestrator.streams = [[revision_beyond(9, 2)]]
    with pytest.raises(InterlockError, match="beyond the task's last one"):
        await revisions(client, after=9)


def changed(cursor: str, revision: int) -> messages.WatchTasksResponse:
    changes = messages.TaskChanges(changes=[messages.TaskChange(event=task_pb2.TaskEvent(revision=revision))])
    return messages.WatchTasksResponse(changes=changes, cursor=cursor)


async def test_a_list_goes_on_from_its_cursor_and_begins_anew_only_where_that_is_lost(
    orchestrator: Orchestrator, client: Client
) -> None:
    first = messages.WatchTasksResponse(snapshot=messages.TaskListPart(first=True, last=True), cursor="a")
    mark = messages.WatchTasksResponse(bookmark=messages.ListBookmark(), cursor="c")
    orchestrator.list_streams = [
        [first, changed("b", 1), mark, registry_unavailable()],
        [slow_list_consumer("c")],
        [changed("d", 2)],
        [cursor_compacted()],
        [first, log_replaced()],
        [first, changed("e", 3)],
    ]
    told: list[str] = []
    seen = []
    async for update in client.watch_tasks(interrupted=lambda _, at: told.append(at)):
        seen += [0] if update.HasField("snapshot") else [c.event.revision for c in update.changes.changes]
        if 3 in seen:
            break
    assert seen == [0, 1, 2, 0, 0, 3]
    assert orchestrator.cursors == ["", "c", "c", "d", "", ""]
    assert told == ["c", "c", "d", "", ""]
