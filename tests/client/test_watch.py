"""A watch that breaks goes on where it was; what cannot be mended by waiting is raised."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from interlock.client import Client, InterlockError
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
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
    orchestrator.streams = [[snapshot(1), grpc.StatusCode.UNAVAILABLE], [event(2, COMPLETED)]]
    assert (await client.wait("task")).state == COMPLETED
