"""Which gateway processes live, and what becomes of the calls of those that do not."""

import asyncio
import uuid
from collections.abc import Callable

import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql import insert

from gateway_svc.audit_events import TOOL_RESULT, result_event, to_message
from gateway_svc.call_store import CallStore
from gateway_svc.pipeline.result import lost
from gateway_svc.tables import gateway
from svc_kit.clock import Clock
from svc_kit.database import Database
from svc_kit.errors import Unavailable
from svc_kit.ids import uuid7

log = structlog.get_logger(__name__)

LEASE_SECONDS = 10.0
BEAT_SECONDS = 2.0


class Ownership:
    """Says that this process lives, and gives up the calls of processes that do not say so any more.

    Times are the database's. A process whose database was away gives nobody up until it has beaten for a
    whole lease: the others may only have waited for the same database.
    """

    def __init__(
        self,
        database: Database,
        calls: CallStore,
        clock: Clock,
        *,
        slot: str,
        wake: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self.incarnation = uuid.uuid4()
        self._database = database
        self._calls = calls
        self._clock = clock
        self._slot = slot
        self._wake = wake
        self._lease_seconds = lease_seconds
        self._beat_seconds = beat_seconds
        self._steady_since: float | None = None

    async def start(self) -> None:
        """Take the slot; the calls of whoever had it before are lost."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(gateway).where(gateway.c.slot == self._slot))
        await self._beat()
        await self._give_up()

    async def run(self) -> None:
        """For ever: beat and sweep; ends only by cancellation."""
        while True:
            await asyncio.sleep(self._beat_seconds)
            try:
                await self._beat()
                if self._is_steady():
                    await self._retire()
                await self._give_up()
            except Unavailable:
                self._steady_since = None
            except Exception:
                log.exception("sweep_failed")

    async def end(self) -> None:
        """Leave the slot in order."""
        try:
            async with self._database.transaction() as connection:
                await connection.execute(sa.delete(gateway).where(gateway.c.incarnation == self.incarnation))
        except Unavailable:
            log.warning("slot_not_left", slot=self._slot)

    async def _beat(self) -> None:
        now = sa.func.clock_timestamp()
        statement = insert(gateway).values(incarnation=self.incarnation, slot=self._slot, beat_time=now)
        statement = statement.on_conflict_do_update(
            index_elements=[gateway.c.incarnation], set_={"beat_time": now}
        )
        async with self._database.transaction() as connection:
            await connection.execute(statement)
        if self._steady_since is None:
            self._steady_since = self._clock.monotonic()

    def _is_steady(self) -> bool:
        since = self._steady_since
        return since is not None and self._clock.monotonic() - since >= self._lease_seconds

    async def _retire(self) -> None:
        oldest = sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, self._lease_seconds)
        async with self._database.transaction() as connection:
            retired = await connection.execute(
                sa.delete(gateway).where(gateway.c.beat_time < oldest).returning(gateway.c.slot)
            )
            slots = [row.slot for row in retired]
        if slots:
            log.warning("gateways_silent", slots=slots)

    async def _give_up(self) -> None:
        """Store the calls of processes that are not there as UNKNOWN, and tell the log of each."""
        while True:
            async with self._database.transaction() as connection:
                calls = await self._calls.lost(connection)
                if not calls:
                    return
                given_up = []
                for call in calls:
                    outcome = lost(now=self._clock.now())
                    event = result_event(call, outcome, event_id=uuid7(), audit_index=call.audit_index)
                    given_up.append(
                        (call, outcome, to_message(TOOL_RESULT, event, call_id=call.asked.call_id))
                    )
                await self._calls.give_up(connection, given_up)
            log.warning("calls_lost", count=len(calls))
            self._wake()
