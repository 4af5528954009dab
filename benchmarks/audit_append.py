"""What recording takes: single appends, many at a time, batches in a stream; each against its floor."""

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg

from benchmarks.floors import empty_rpc, raw_insert, timed
from benchmarks.report import Row, milliseconds, percentile
from benchmarks.suite import Running, running_suite
from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, entry_pb2
from svc_kit.clients import TokenFile, channel
from svc_kit.ids import uuid7

_WARM_UP = 100
_SINGLE = 1000
_PACE = 200
_PACED_SECONDS = 10
_WRITERS = 64
_CALLS_EACH = 60
_BATCH = 128
_BATCHES = 120
_IN_FLIGHT = 4
_BODY = os.urandom(300)


async def measure() -> list[Row]:
    """All of it on one suite, each beside its floor in the same minute."""
    async with (
        running_suite() as suite,
        empty_rpc() as empty,
        raw_insert(suite.admin_url) as insert,
        appending(suite) as append,
    ):
        for _ in range(_WARM_UP):
            for each in (empty, insert, append):
                await each()
        return [
            *await _alone(empty, insert, append),
            *_paced_rows(await paced(append)),
            await _together(empty, append),
            await _streamed(suite),
        ]


@contextlib.asynccontextmanager
async def appending(suite: Running) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """A call that appends an event like that of a call to the suite's own log, and waits until it stands."""
    async with channel(suite.door("audit"), TokenFile(suite.token_file("gateway"))) as door:
        audit = audit_service_pb2_grpc.AuditServiceStub(door)

        def append() -> Awaitable[object]:
            appended: Awaitable[object] = audit.Append(audit_service_pb2.AppendRequest(event=event()))
            return appended

        yield append


def event(body: bytes = b'{"n":1}') -> entry_pb2.Event:
    """An event like that of a tool call."""
    made = entry_pb2.Event(
        event_id=str(uuid7()),
        tenant="default",
        type=entry_pb2.ENTRY_TYPE_TOOL_CALL,
        status="RUNNING",
        actor="bench",
        payloads=[entry_pb2.Payload(part="arguments", content_type="application/json", body=body)],
    )
    made.event_time.GetCurrentTime()
    return made


async def _alone(
    empty: Callable[[], Awaitable[object]],
    insert: Callable[[], Awaitable[object]],
    append: Callable[[], Awaitable[object]],
) -> list[Row]:
    rpcs, commits, appends = [], [], []
    for _ in range(_SINGLE):
        rpcs.append(await timed(empty))
        commits.append(await timed(insert))
        appends.append(await timed(append))
    rpc, commit = milliseconds(rpcs), milliseconds(commits)
    return [
        Row(
            what="Append p50",
            load="idle",
            value=milliseconds(appends),
            unit="ms",
            floor=rpc + commit,
            note=f"floor: empty RPC {rpc:.2f} + raw INSERT {commit:.2f}",
        ),
        Row(
            what="Append p99",
            load="idle",
            value=percentile(appends, 0.99) * 1000,
            unit="ms",
            floor=percentile(commits, 0.99) * 1000,
            note="floor: raw INSERT p99",
        ),
    ]


async def paced(append: Callable[[], Awaitable[object]]) -> list[float]:
    """Seconds of each in an open loop: due at its time, late from then on, whatever came of those before."""
    start = time.perf_counter()
    waits: list[float] = []

    async def at(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await append()
        waits.append(time.perf_counter() - due)

    await asyncio.gather(*(at(start + i / _PACE) for i in range(_PACE * _PACED_SECONDS)))
    return waits


def _paced_rows(waits: list[float]) -> list[Row]:
    load = f"{_PACE}/s"
    return [
        Row(what="Append p50", load=load, value=milliseconds(waits), unit="ms"),
        Row(what="Append p99", load=load, value=percentile(waits, 0.99) * 1000, unit="ms"),
    ]


async def _together(empty: Callable[[], Awaitable[object]], append: Callable[[], Awaitable[object]]) -> Row:
    async def rate(call: Callable[[], Awaitable[object]]) -> float:
        async def write() -> None:
            for _ in range(_CALLS_EACH):
                await call()

        start = time.perf_counter()
        await asyncio.gather(*(write() for _ in range(_WRITERS)))
        return _WRITERS * _CALLS_EACH / (time.perf_counter() - start)

    floor = await rate(empty)
    return Row(
        what=f"Append by {_WRITERS} at a time",
        load="saturated",
        value=await rate(append),
        unit="/s",
        floor=floor,
        note="floor: empty RPCs by as many",
    )


async def _streamed(suite: Running) -> Row:
    """Against a binary COPY of rows as large."""
    floor = await _copied(suite, _BODY)
    return Row(
        what=f"AppendStream, batches of {_BATCH}",
        load="saturated",
        value=await streamed(suite),
        unit="entries/s",
        floor=floor,
        note="floor: binary COPY of rows of entry and payload, as large, without indexes but the keys",
    )


async def streamed(suite: Running) -> float:
    """Entries a second of batches with some in flight, as relays send them."""
    batches = [
        audit_service_pb2.AppendStreamRequest(events=[event(_BODY) for _ in range(_BATCH)])
        for _ in range(_BATCHES)
    ]
    async with channel(suite.door("audit"), TokenFile(suite.token_file("gateway"))) as door:
        stream = audit_service_pb2_grpc.AuditServiceStub(door).AppendStream()
        start = time.perf_counter()
        acknowledged = 0
        for sent, batch in enumerate(batches):
            await stream.write(batch)
            if sent + 1 - acknowledged >= _IN_FLIGHT:
                await stream.read()
                acknowledged += 1
        await stream.done_writing()
        while acknowledged < _BATCHES:
            await stream.read()
            acknowledged += 1
        return _BATCH * _BATCHES / (time.perf_counter() - start)


async def _copied(suite: Running, body: bytes) -> float:
    """Rows a second, a commit for each batch."""
    connection = await psycopg.AsyncConnection.connect(suite.admin_url, autocommit=True)
    try:
        await connection.execute("CREATE TABLE bench_entry (id uuid PRIMARY KEY, leaf bytea, hash bytea)")
        await connection.execute("CREATE TABLE bench_payload (id uuid PRIMARY KEY, salt bytea, body bytea)")
        leaf, hash_ = os.urandom(450), os.urandom(32)
        start = time.perf_counter()
        for _ in range(_BATCHES):
            ids: list[uuid.UUID] = [uuid7() for _ in range(_BATCH)]
            async with connection.transaction(), connection.cursor() as cursor:
                for table, first, second in (
                    ("bench_entry", leaf, hash_),
                    ("bench_payload", hash_, body),
                ):
                    statement = f"COPY {table} FROM STDIN (FORMAT binary)"
                    async with cursor.copy(statement.encode()) as copy:
                        copy.set_types(["uuid", "bytea", "bytea"])
                        for each in ids:
                            await copy.write_row((each, first, second))
        return _BATCH * _BATCHES / (time.perf_counter() - start)
    finally:
        await connection.execute("DROP TABLE IF EXISTS bench_entry, bench_payload")
        await connection.close()
