"""What recording takes while contents are swept, the log is verified and people search it: against alone."""

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

from audit_svc.event import Appended, NewEvent, Part, nanoseconds
from audit_svc.log import AuditLog
from audit_svc.removal_store import PlacedPart
from audit_svc.removals import Removals
from audit_svc.retention_store import RetentionStore
from audit_svc.store import Store
from audit_svc.sweep import Sweep
from benchmarks.audit_append import appending, paced, streamed
from benchmarks.report import Row, milliseconds, percentile
from benchmarks.suite import Running, running_suite
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import retention_service_pb2 as retention
from interlock.audit.v1 import retention_service_pb2_grpc
from interlock.client.client import Client
from svc_kit.clients import channel
from svc_kit.clock import Clock, SystemClock
from svc_kit.database import Database
from svc_kit.ids import uuid7

OLD = 60_000
"""So many contents are a hundred days old, and go after thirty."""
_AGO = timedelta(days=100)
_BATCH = 500
_SEARCHES = (
    messages.SearchEntriesRequest(filter='agent = "clerk"'),
    messages.SearchEntriesRequest(filter='type = "TOOL_CALL" AND status = "RUNNING"', include_proofs=True),
    messages.SearchEntriesRequest(text="invoice overdue", reason="measured"),
)


class _Counted(Removals):
    """Counts what it removes."""

    def __init__(self, log: AuditLog, clock: Clock, done: Counter[str]) -> None:
        super().__init__(log, clock)
        self._done = done

    async def remove(self, tenant: str, parts: Sequence[PlacedPart], **told: Any) -> Appended:
        """See `Removals.remove`."""
        appended = await super().remove(tenant, parts, **told)
        self._done["contents swept"] += len(parts)
        return appended


class _LongAgo(SystemClock):
    """The time of a hundred days before."""

    def now(self) -> datetime:
        """See `Clock.now`."""
        return super().now() - _AGO


async def measure() -> list[Row]:
    """Paced appends and a stream, alone and then beside all of it, on one suite."""
    async with running_suite() as suite, suite.client("DEVELOPER", "AUDITOR") as client:
        origin = (
            await client.call(client.audit.GetCheckpoint, messages.GetCheckpointRequest())
        ).checkpoint.origin
        database = Database(suite.admin_url.replace("/postgres?", "/interlock_audit?"))
        try:
            store = Store(database, origin_prefix=origin.rpartition("/")[0])
            await _fill(store, origin)
            await _set_policy(suite)
            async with appending(suite) as append:
                alone, alone_rate = await paced(append), await streamed(suite)
                async with _busy(client, database, store, origin) as done:
                    busy, busy_rate = await paced(append), await streamed(suite)
        finally:
            await database.close()
    told = ", ".join(f"{count:,} {what}" for what, count in done.items())
    return [
        Row(
            what="Append p50, busy",
            load="200/s",
            value=milliseconds(busy),
            unit="ms",
            floor=milliseconds(alone),
            note=f"floor: alone; meanwhile {told}",
        ),
        Row(
            what="Append p99, busy",
            load="200/s",
            value=percentile(busy, 0.99) * 1000,
            unit="ms",
            floor=percentile(alone, 0.99) * 1000,
            note="floor: alone",
        ),
        Row(
            what="AppendStream, busy",
            load="saturated",
            value=busy_rate,
            unit="entries/s",
            floor=alone_rate,
            note="floor: alone",
        ),
    ]


async def _fill(store: Store, origin: str) -> None:
    """As a replica of a hundred days ago would have."""
    clock = _LongAgo()
    log = AuditLog(store, clock, origin_prefix=origin.rpartition("/")[0])
    for _ in range(OLD // _BATCH):
        await log.append_batch(tuple(_event(clock) for _ in range(_BATCH)))
    await log.close()


def _event(clock: _LongAgo) -> NewEvent:
    milliseconds_ = nanoseconds(clock.now()) // 1_000_000
    return NewEvent(
        event_id=uuid.UUID(int=milliseconds_ << 80 | uuid7().int & (1 << 80) - 1),
        tenant="default",
        producer="bench",
        type="PROMPT",
        event_time=nanoseconds(clock.now()),
        agent="clerk",
        task_id=uuid7(),
        parts=(Part(name="input", content_type="text/plain", body=b"The invoice is overdue. " + b"x" * 400),),
    )


async def _set_policy(suite: Running) -> None:
    rule = retention.RetentionRule(payload_max_days=30)
    setattr(rule, "class", retention.RETENTION_CLASS_CONTENT)
    async with channel(suite.door("audit"), lambda: suite.suite.token("ADMIN")) as door:
        stub = retention_service_pb2_grpc.RetentionServiceStub(door)
        await stub.SetRetentionPolicy(retention.SetRetentionPolicyRequest(rules=[rule]))


@contextlib.asynccontextmanager
async def _busy(client: Client, database: Database, store: Store, origin: str) -> AsyncIterator[Counter[str]]:
    """All three at once, again and again until the block ends; how much each has done."""
    done: Counter[str] = Counter()
    clock = SystemClock()
    log = AuditLog(store, clock, origin_prefix=origin.rpartition("/")[0])
    sweep = Sweep(RetentionStore(database), _Counted(log, clock, done), clock)
    works = (_swept(sweep), _verified(client, done), _searched(client, done))
    loads = [asyncio.create_task(work) for work in works]
    try:
        yield done
    finally:
        for load in loads:
            load.cancel()
        ends = await asyncio.gather(*loads, return_exceptions=True)
        await log.close()
    if failed := [end for end in ends if not isinstance(end, asyncio.CancelledError)]:
        raise RuntimeError("a load ended by itself") from failed[0]


async def _swept(sweep: Sweep) -> NoReturn:
    """A hundred pieces or so, and then what has become old meanwhile, which is nothing."""
    while True:
        await sweep.run()
        await asyncio.sleep(1)


async def _verified(client: Client, done: Counter[str]) -> NoReturn:
    while True:
        before = 0
        async for told in client.stream(client.audit.VerifyRange, messages.VerifyRangeRequest()):
            done["entries verified"] += told.checked - before
            before = told.checked


async def _searched(client: Client, done: Counter[str]) -> NoReturn:
    while True:
        for request in _SEARCHES:
            await client.call(client.audit.SearchEntries, request)
            done["searches"] += 1
        await asyncio.sleep(0.1)
