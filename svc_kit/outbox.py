"""The transactional outbox and the relay that empties it, in order, at least once.

A business transaction writes outbox rows with sequence numbers from `event_log.advance`; what has committed
is delivered sooner or later, and the receiver knows a repeat by its event id. Rows hold references to
immutable rows, not copies of payloads.
"""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from interlock.common.cancellation import being_cancelled
from svc_kit.advisory import Leader
from svc_kit.database import Database
from svc_kit.errors import Unavailable
from svc_kit.event_log import Head, Migration
from svc_kit.wakeup import Subscription

log = structlog.get_logger(__name__)

Entry = TypeVar("Entry")

MAX_BACK_OFF_SECONDS = 15.0
FIRST_BACK_OFF_SECONDS = 0.1
# What is committed within this time after a delivery goes with the next one.
GATHER_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing to tell; `event_id` names it to the receiver, `body` is small JSON that points at rows."""

    tenant: str
    event_id: uuid.UUID
    kind: str
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow(Message):
    """A message with its place in the producer's gapless sequence."""

    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is not yet acknowledged: how many rows, and the age of the oldest (0 when there is none)."""

    count: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One slice that was tried; `error` is None when the receiver acknowledged it."""

    rows: int
    seconds: float
    error: BaseException | None


def outbox_table(metadata: sa.MetaData) -> sa.Table:
    """The table definition, for statements; `create_outbox` makes it."""
    return sa.Table(
        "outbox",
        metadata,
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", JSONB, nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )


def create_outbox(op: Migration) -> None:
    """For a migration: the outbox table. Its numbers come from `log_head.outbox_seq`."""
    op.execute(
        """
        CREATE TABLE outbox (
            seq bigint PRIMARY KEY,
            tenant text NOT NULL,
            event_id uuid NOT NULL,
            kind text NOT NULL,
            body jsonb NOT NULL,
            create_time timestamptz NOT NULL DEFAULT now()
        )
        """
    )


_WRITE = sa.text(
    "INSERT INTO outbox (seq, tenant, event_id, kind, body)"
    " SELECT :first_seq + ordinal - 1, tenant, event_id, kind, body::jsonb"
    " FROM unnest(CAST(:tenants AS text[]), CAST(:event_ids AS uuid[]),"
    " CAST(:kinds AS text[]), CAST(:bodies AS text[]))"
    " WITH ORDINALITY AS row (tenant, event_id, kind, body, ordinal)"
)
# Reading above what was acknowledged keeps the scan off the dead index entries that deletion leaves at the
# left.
_READ = sa.text(
    "SELECT seq, tenant, event_id, kind, body FROM outbox WHERE seq > :acknowledged ORDER BY seq LIMIT :limit"
)
# This commit need not wait for the disk: rows that come back after a crash are delivered again and known as
# repeats.
_DELETE = sa.text(
    "DELETE FROM outbox WHERE seq > :acknowledged AND seq <= :last"
    " AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'"
)
_BACKLOG = sa.text(
    "SELECT first.seq AS first_seq, (SELECT max(seq) FROM outbox) AS last_seq,"
    " extract(epoch FROM clock_timestamp() - first.create_time)::float8 AS oldest_seconds"
    " FROM (SELECT seq, create_time FROM outbox WHERE seq > :acknowledged ORDER BY seq LIMIT 1) AS first"
)


async def write_outbox(connection: AsyncConnection, head: Head, messages: Sequence[Message]) -> None:
    """Store messages under the numbers that `advance(…, outbox=len(messages))` gave this transaction."""
    if len(messages) != head.seq - head.first_seq + 1:
        raise ValueError(f"outbox: {len(messages)} messages for numbers {head.first_seq} to {head.seq}")
    if messages:
        await connection.execute(
            _WRITE,
            {
                "first_seq": head.first_seq,
                "tenants": [message.tenant for message in messages],
                "event_ids": [message.event_id for message in messages],
                "kinds": [message.kind for message in messages],
                "bodies": [json.dumps(message.body, allow_nan=False) for message in messages],
            },
        )


class Relay(Generic[Entry]):
    """Delivers the outbox of one database: one leader, in order, by slices, deleted when acknowledged.

    `build` turns rows into what is sent (one entry or more per row, in order); `deliver` returns once the
    receiver has acknowledged all of them durably. Either may raise: the relay backs off and tries again for
    ever, since skipping a row would lose it. A slice that fails for another reason than Unavailable is
    halved, so that what precedes a bad row still arrives and the log names the row.

    A receiver sees a row again when an acknowledgement or a deletion was lost. What was kept for the rows
    alone is deleted by `forget`, in the transaction that deletes them: a repeat is built of the same content.
    """

    def __init__(
        self,
        database: Database,
        *,
        build: Callable[[Sequence[OutboxRow]], Awaitable[Sequence[Entry]]],
        deliver: Callable[[Sequence[Entry]], Awaitable[None]],
        forget: Callable[[AsyncConnection, Sequence[OutboxRow]], Awaitable[None]] | None = None,
        name: str = "outbox",
        slice_rows: int = 256,
        poll_seconds: float = 1.0,
        gather_seconds: float = GATHER_SECONDS,
        deliver_seconds: float = 30.0,
        woken: Subscription | None = None,
        observe: Callable[[Delivery], None] | None = None,
    ) -> None:
        self._database = database
        self._build = build
        self._deliver = deliver
        self._forget = forget
        self._name = name
        self._slice_rows = slice_rows
        self._poll_seconds = poll_seconds
        self._gather_seconds = gather_seconds
        self._deliver_seconds = deliver_seconds
        self._woken = woken if woken is not None else Subscription()
        self._observe = observe
        self._leader = Leader(database, name, self._relay, retry_seconds=poll_seconds)
        # Every row up to here is known to be acknowledged; rows leave in order, so this grows while we lead.
        self._acknowledged = 0

    @property
    def leading(self) -> bool:
        """Whether this process is the one that relays."""
        return self._leader.leading

    async def run(self) -> None:
        """For ever: relay whenever this process is the leader; ends only by cancellation."""
        await self._leader.run()

    def wake(self) -> None:
        """Rows were committed: read now instead of at the next poll; does nothing where another leads."""
        self._woken.wake()

    async def backlog(self) -> Backlog:
        """Read from the database, in two index look-ups; any process may ask."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_BACKLOG, {"acknowledged": self._acknowledged})).one_or_none()
        if row is None:
            return Backlog(count=0, oldest_seconds=0.0)
        return Backlog(count=row.last_seq - row.first_seq + 1, oldest_seconds=max(0.0, row.oldest_seconds))

    async def _relay(self) -> None:
        # A lost connection may mean a restored database, with older numbers.
        self._acknowledged = 0
        limit = self._slice_rows
        failures = 0
        while True:
            try:
                moved = await self._move_slice(limit)
            except Exception as error:
                if being_cancelled():
                    # A failure in the moment of the cancellation hides it, and is nobody's news.
                    raise asyncio.CancelledError from error
                # Whatever else it is, the rows must arrive.
                failures += 1
                if failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …: an outage is told, not shouted
                    log.warning(
                        "relay_failed",
                        relay=self._name,
                        after_seq=self._acknowledged,
                        limit=limit,
                        failures=failures,
                        error=repr(error),
                    )
                if not isinstance(error, Unavailable):
                    limit = max(1, limit // 2)
                await asyncio.sleep(_back_off(error, failures))
                continue
            failures = 0
            if moved < limit and await self._woken.wait(self._poll_seconds):
                # A delivery costs both sides a commit, and nobody waits for it.
                await asyncio.sleep(self._gather_seconds)
            limit = min(self._slice_rows, limit * 2)

    async def _move_slice(self, limit: int) -> int:
        """Read, deliver and delete up to `limit` rows; how many there were."""
        async with self._database.autocommit() as connection:
            found = await connection.execute(_READ, {"acknowledged": self._acknowledged, "limit": limit})
            rows = [OutboxRow(**row) for row in found.mappings()]
        if not rows:
            return 0
        await self._deliver_rows(rows)
        await self._delete(rows)
        self._acknowledged = rows[-1].seq
        return len(rows)

    async def _delete(self, rows: Sequence[OutboxRow]) -> None:
        through = {"acknowledged": self._acknowledged, "last": rows[-1].seq}
        if self._forget is None:
            async with self._database.autocommit() as connection:
                await connection.execute(_DELETE, through)
            return
        async with self._database.transaction() as connection:
            await connection.execute(_DELETE, through)
            await self._forget(connection, rows)

    async def _deliver_rows(self, rows: Sequence[OutboxRow]) -> None:
        started = time.perf_counter()
        error: BaseException | None = None
        try:
            async with asyncio.timeout(self._deliver_seconds):
                await self._deliver(await self._build(rows))
        except asyncio.CancelledError as cancelled:
            error = cancelled
            if being_cancelled():
                raise
            # A call of ours was cancelled from below (its channel closed), not the relay.
            raise ConnectionError("the delivery was cancelled by its transport") from cancelled
        except Exception as failed:
            error = failed
            raise
        finally:
            if self._observe is not None:
                self._observe(Delivery(rows=len(rows), seconds=time.perf_counter() - started, error=error))


def _back_off(error: Exception, failures: int) -> float:
    """Seconds to wait: what the receiver asked for, else doubling; with jitter."""
    asked: float | None = getattr(error, "retry_after", None)
    seconds = asked if asked is not None else FIRST_BACK_OFF_SECONDS * 2.0 ** min(failures - 1, 10)
    return min(seconds, MAX_BACK_OFF_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 (jitter)
