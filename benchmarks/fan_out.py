"""Streams that hear of every change: watchers in processes of their own, and a bare server to compare."""

import asyncio
import contextlib
import multiprocessing
import resource
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import grpc

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

_WATCH = "/interlock.bench.Floor/Watch"
_TELL = "/interlock.bench.Floor/Tell"
_SPAWN = multiprocessing.get_context("spawn")
_STREAMS_PER_CONNECTION = 100
_ANSWER_SECONDS = 60.0
_HEAR_SECONDS = 30.0
_POLL_SECONDS = 0.002
_TIME = struct.Struct("d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """So many streams of one method, all with the same request."""

    address: str
    method: str
    request: bytes
    streams: int
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """How long after the time that each event bears each stream of a group heard of it, in seconds."""

    delays: list[list[float]]


class Listening:
    """A process with the streams of a group, all open."""

    def __init__(self, pipe: Connection, count: Any) -> None:
        self._pipe = pipe
        self._count = count

    def opened(self) -> None:
        """Returns when every stream has had its first message."""
        self._answer("to open")

    async def until(self, total: int) -> None:
        """Returns when the streams have heard of so many events together."""
        try:
            async with asyncio.timeout(_HEAR_SECONDS):
                while self._count.value < total:  # noqa: ASYNC110 - another process counts
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            said = f"{self._count.value} of {total} messages were heard within {_HEAR_SECONDS:g} s"
            raise TimeoutError(said) from None

    def heard(self) -> Heard:
        """Hang up and tell."""
        self._pipe.send(None)
        told: Heard = self._answer("to tell what was heard")
        return told

    def _answer(self, what: str) -> Any:
        if not self._pipe.poll(_ANSWER_SECONDS):
            raise TimeoutError(f"the streams took longer than {_ANSWER_SECONDS:g} s {what}")
        return self._pipe.recv()


@contextlib.contextmanager
def listening(group: Group) -> Iterator[Listening]:
    """A process that opens the streams of a group and notes when they hear."""
    ours, theirs = _SPAWN.Pipe()
    # Counted by one process alone: no lock is needed.
    count = _SPAWN.Value("q", 0, lock=False)
    process = _SPAWN.Process(target=_listen, args=(group, theirs, count), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is heard here
    try:
        yield Listening(ours, count)
    finally:
        process.terminate()
        process.join()


def _listen(group: Group, pipe: Connection, count: Any) -> None:
    import uvloop  # noqa: PLC0415 - in the child alone

    uvloop.run(_hear(group, pipe, count))


async def _hear(group: Group, pipe: Connection, count: Any) -> None:
    metadata = (("authorization", f"Bearer {group.token}"),) if group.token else ()
    times_of = _EVENTS[group.method]
    delays: list[list[float]] = [[] for _ in range(group.streams)]
    opened = 0
    all_open = asyncio.Event()

    async def one(channel: grpc.aio.Channel, mine: list[float]) -> None:
        nonlocal opened
        method: Any = channel.unary_stream(group.method)
        call = method(group.request, metadata=metadata)
        await call.read()
        opened += 1
        if opened == group.streams:
            all_open.set()
        while (answer := await call.read()) is not grpc.aio.EOF:
            now = time.time()
            heard = [now - event for event in times_of(answer)]
            mine += heard
            count.value += len(heard)

    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                # Else all channels of a process share one connection.
                grpc.aio.insecure_channel(group.address, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(-(-group.streams // _STREAMS_PER_CONNECTION))
        ]
        streams = [
            asyncio.ensure_future(one(channels[number % len(channels)], mine))
            for number, mine in enumerate(delays)
        ]
        waiting = asyncio.ensure_future(all_open.wait())
        await asyncio.wait([waiting, *streams], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            raise RuntimeError("a stream ended") from next(
                each for each in streams if each.done()
            ).exception()
        pipe.send(None)
        await asyncio.to_thread(pipe.recv)
        pipe.send(Heard(delays=delays))
        for each in streams:
            each.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _of_one_task(answer: bytes) -> list[float]:
    update = messages.WatchTaskResponse.FromString(answer)
    return [update.event.time.ToNanoseconds() / 1e9] if update.HasField("event") else []


def _of_a_list(answer: bytes) -> list[float]:
    changes = messages.WatchTasksResponse.FromString(answer).changes.changes
    return [change.event.time.ToNanoseconds() / 1e9 for change in changes]


def _of_the_floor(answer: bytes) -> list[float]:
    (told,) = _TIME.unpack_from(answer)
    return [told]


WATCH_TASK = "/interlock.orchestrator.v1.OrchestratorService/WatchTask"
WATCH_TASKS = "/interlock.orchestrator.v1.OrchestratorService/WatchTasks"
# The times of the events that a message tells of.
_EVENTS: dict[str, Callable[[bytes], list[float]]] = {
    WATCH_TASK: _of_one_task,
    WATCH_TASKS: _of_a_list,
    _WATCH: _of_the_floor,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """A bare server that tells every stream what it is told, and when it was."""

    address: str
    tell: Callable[[bytes], Awaitable[object]]
    cpu_seconds: Callable[[], Awaitable[float]]

    def group(self, streams: int) -> Group:
        """So many streams of it."""
        return Group(address=self.address, method=_WATCH, request=b"", streams=streams)


@contextlib.asynccontextmanager
async def bare_fan_out() -> AsyncIterator[Floor]:
    """The server, in a process of its own."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        address = f"127.0.0.1:{ours.recv()}"
        async with grpc.aio.insecure_channel(address) as channel:
            tell: Any = channel.unary_unary(_TELL)

            async def cpu_seconds() -> float:
                return float(await tell(b""))

            yield Floor(address=address, tell=tell, cpu_seconds=cpu_seconds)
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection) -> None:
    import uvloop  # noqa: PLC0415 - in the child alone

    queues: set[asyncio.Queue[bytes]] = set()

    async def watch(_request: bytes, context: Any) -> None:
        mine: asyncio.Queue[bytes] = asyncio.Queue()
        queues.add(mine)
        await context.write(b"open")
        while True:
            await context.write(await mine.get())

    async def tell(request: bytes, _context: object) -> bytes:
        if request:
            for each in queues:
                each.put_nowait(_TIME.pack(time.time()) + request)
        return str(_cpu_seconds()).encode()

    async def main() -> None:
        server = grpc.aio.server()
        handlers: dict[str, Any] = {
            "Watch": grpc.unary_stream_rpc_method_handler(watch),
            "Tell": grpc.unary_unary_rpc_method_handler(tell),
        }
        service = grpc.method_handlers_generic_handler("interlock.bench.Floor", handlers)
        server.add_generic_rpc_handlers([service])
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(main())
