"""The live copy of the registry survives whatever goes wrong while it follows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from interlock.client.registry_feed import RegistryFeed
from interlock.registry.v1 import agent_pb2, registry_service_pb2, registry_service_pb2_grpc


class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    """Tells every watcher of one agent, and then that this is all."""

    def __init__(self) -> None:
        self.watches = 0

    async def WatchRegistry(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.watches += 1
        yield registry_service_pb2.WatchRegistryResponse(
            tenant="default", agent=agent_pb2.Agent(name="echoer"), position=1
        )
        yield registry_service_pb2.WatchRegistryResponse(bookmark=registry_service_pb2.Bookmark(), position=1)
        await asyncio.Event().wait()


@pytest.fixture
async def served() -> AsyncIterator[tuple[Registry, grpc.aio.Channel]]:
    registry, server = Registry(), grpc.aio.server()  # type: ignore[abstract]  # it is only watched
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield registry, channel
    await server.stop(0)


@pytest.mark.parametrize("fault", [RuntimeError("broken"), asyncio.CancelledError()])
async def test_a_failure_while_a_change_is_taken_in_is_told_and_the_feed_begins_again(
    served: tuple[Registry, grpc.aio.Channel], fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    registry, channel = served
    faults = [fault, fault]

    def changed() -> None:
        if faults:
            raise faults.pop()

    async with RegistryFeed(channel) as feed, asyncio.timeout(10):
        feed.on_change(changed)
        await feed.wait_ready()
        assert feed.agent("default", "echoer") is not None
    assert registry.watches == 3
    if isinstance(fault, Exception):
        assert [line.levelname for line in caplog.records if "registry feed failed" in line.message] == [
            "ERROR",
            "ERROR",
        ]


async def test_closing_a_feed_ends_it(served: tuple[Registry, grpc.aio.Channel]) -> None:
    _, channel = served
    feed = RegistryFeed(channel)
    feed.start()
    async with asyncio.timeout(10):
        await feed.wait_ready()
    async with asyncio.timeout(1):
        await feed.close()
    assert feed.agent("default", "echoer") is not None


class Stream:
    """A stream whose one message arrives when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.message: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def read(self) -> Any:
        self.asked.set()
        if self.message.done():
            await asyncio.Event().wait()
        return await self.message

    def cancel(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("steps", range(5))
async def test_a_feed_ends_even_when_it_is_closed_while_a_message_arrives(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream()
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        feed = RegistryFeed(channel)
        monkeypatch.setattr(feed._registry, "WatchRegistry", lambda _: stream)
        feed.start()
        await stream.asked.wait()
        stream.message.set_result(
            registry_service_pb2.WatchRegistryResponse(bookmark=registry_service_pb2.Bookmark(), position=1)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await feed.close()
