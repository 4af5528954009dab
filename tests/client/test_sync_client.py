"""The client without an event loop, against a server on a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from interlock.client import InterlockError, SyncClient
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, task_pb2
from tests.client.conftest import Orchestrator
from tests.client.test_watch import COMPLETED, event, snapshot


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Orchestrator]:
    """An orchestrator that listens while this thread blocks."""
    double = Orchestrator(address=f"unix:{tmp_path}/door")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server()
        orchestrator_service_pb2_grpc.add_OrchestratorServiceServicer_to_server(double, server)
        server.add_insecure_port(double.address)
        await server.start()
        return server

    async def stop() -> None:
        await server.stop(None)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result()
    yield double
    asyncio.run_coroutine_threadsafe(stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def client(served: Orchestrator) -> Iterator[SyncClient]:
    with SyncClient({"orchestrator": served.address}, lambda: "token") as made:
        yield made
    made.close()


def test_calls_block_and_answer(client: SyncClient, served: Orchestrator) -> None:
    assert client.submit("agent", "{}", task_type="t").agent == "agent"
    assert served.requests[0].task_type == "t"
    assert client.get("7").task_id == "7"
    answer = client.call(lambda each: each.tasks.GetTask, messages.GetTaskRequest(task_id="8"))
    assert answer.task.task_id == "8"


def test_a_watch_is_an_ordinary_loop_over_a_broken_stream(client: SyncClient, served: Orchestrator) -> None:
    served.streams = [[snapshot(1), grpc.StatusCode.UNAVAILABLE], [event(2), event(3, COMPLETED)]]
    assert [update.event.revision for update in client.watch("task")] == [0, 2, 3]
    served.streams = [[event(1), event(2)]]
    for update in client.watch("task"):
        assert update.event.state == task_pb2.TASK_STATE_RUNNING
        break


def test_errors_are_those_of_the_async_client(client: SyncClient) -> None:
    with pytest.raises(InterlockError):
        client.retry("x")


def test_several_threads_may_share_a_client(client: SyncClient) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append(client.get(name).task_id)) for name in "abcde"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list("abcde")
