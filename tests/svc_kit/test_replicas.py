"""One service at several addresses: calls are spread, and none is lost when a replica goes."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from interlock.common.addresses import parse_peer
from interlock.common.channel import channel

_SERVICE, _METHOD = "interlock.test.Replica", "Name"


@asynccontextmanager
async def replica(name: str, address: str) -> AsyncIterator[grpc.aio.Server]:
    """A server that answers with its name."""

    async def answer(_request: bytes, _context: object) -> bytes:
        return name.encode()

    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})])
    server.add_insecure_port(address)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


async def ask(connection: grpc.aio.Channel, times: int) -> Counter[str]:
    """Who answered how often."""
    call: Any = connection.unary_unary(f"/{_SERVICE}/{_METHOD}")
    found: Counter[str] = Counter()
    for _ in range(times):
        found[(await call(b"", wait_for_ready=True)).decode()] += 1
    return found


async def both_answer(connection: grpc.aio.Channel) -> None:
    """Returns when both replicas are connected: each answers its turn."""
    while len(await ask(connection, 2)) < 2:
        pass


async def test_calls_are_spread_over_replicas_and_none_fails_when_one_of_them_stops(tmp_path: Path) -> None:
    doors = [f"unix:{tmp_path / name}" for name in ("a", "b")]
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(replica("a", doors[0]))
        await stack.enter_async_context(replica("b", doors[1]))
        connection = await stack.enter_async_context(channel(",".join(doors)))
        await both_answer(connection)
        assert await ask(connection, 10) == {"a": 5, "b": 5}
        await first.stop(1.0)
        assert (await ask(connection, 10))["b"] >= 9
        # A replica that comes back is found again by itself.
        await stack.enter_async_context(replica("a", doors[0]))
        await both_answer(connection)


async def test_a_peer_that_is_away_is_told_as_unavailable_by_every_replica(tmp_path: Path) -> None:
    async with channel(f"unix:{tmp_path / 'a'},unix:{tmp_path / 'b'}") as connection:
        call: Any = connection.unary_unary(f"/{_SERVICE}/{_METHOD}")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call(b"")
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "target", "is_local", "is_spread"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True, False),
        ("unix:/a", "unix:/a", True, False),
        ("unix:/a,unix:/b", "unix:/a,/b", True, True),
        ("10.0.0.1:80, 127.0.0.1:81", "ipv4:10.0.0.1:80,127.0.0.1:81", False, True),
        ("[::1]:80,[::1]:81", "ipv6:[::1]:80,[::1]:81", True, True),
        ("tasks.example:80", "tasks.example:80", False, True),
    ],
)
def test_addresses_of_replicas_are_named_as_grpc_takes_them(
    text: str, target: str, *, is_local: bool, is_spread: bool
) -> None:
    peer = parse_peer(text)
    assert (peer.target, peer.is_local, peer.is_spread) == (target, is_local, is_spread)


@pytest.mark.parametrize("text", ["unix:/a,10.0.0.1:80", "a.example:80,b.example:80", "10.0.0.1:80,", ","])
def test_replicas_that_grpc_cannot_take_together_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"replicas are named|spelled host:port"):
        parse_peer(text)


def test_a_token_is_not_sent_to_replicas_of_which_one_is_beyond_this_machine() -> None:
    with pytest.raises(ValueError, match="plain text"):
        channel("127.0.0.1:80,10.0.0.1:80", lambda: "secret")
