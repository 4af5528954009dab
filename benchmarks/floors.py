"""What the same machine needs at least: a raw durable INSERT, and an RPC that does nothing."""

import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Any

import grpc
import psycopg

_METHOD = "/interlock.bench.Floor/Empty"


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds that one call took."""
    start = time.perf_counter()
    await call()
    return time.perf_counter() - start


@contextlib.asynccontextmanager
async def raw_insert(admin_url: str) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """A call that inserts one row of a task's size into the suite's own PostgreSQL and waits for the disk."""
    connection = await psycopg.AsyncConnection.connect(admin_url, autocommit=True)
    await connection.execute("CREATE TABLE bench_floor (id bigint GENERATED ALWAYS AS IDENTITY, body jsonb)")
    try:
        yield lambda: connection.execute("INSERT INTO bench_floor (body) VALUES (%s)", ('{"n": 1}',))
    finally:
        await connection.execute("DROP TABLE bench_floor")
        await connection.close()


@contextlib.asynccontextmanager
async def empty_rpc() -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """A call to a bare server in a process of its own."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ours.recv()}") as channel:
            call: Any = channel.unary_unary(_METHOD)
            yield lambda: call(b"")
    finally:
        process.terminate()
        process.join()


def _serve(pipe: Connection) -> None:
    import uvloop  # noqa: PLC0415 - in the child alone

    async def answer(request: bytes, _context: object) -> bytes:
        return request

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler(
            "interlock.bench.Floor", {"Empty": grpc.unary_unary_rpc_method_handler(answer)}
        )
        server.add_generic_rpc_handlers([handler])
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(main())
