"""Which gateway processes live, and what becomes of the calls of those that do not."""

import asyncio
import uuid
from collections.abc import Callable

import structlog

from gateway_svc.audit_events import TOOL_RESULT, result_event, to_message
from gateway_svc.call_store import CallStore
from gateway_svc.errors import no_slot_yet
from gateway_svc.gateway_store import GatewayStore
from gateway_svc.pipeline.result import lost
from gateway_svc.tool_call import Outcome, ToolCall
from svc_kit.clock import Clock
from svc_kit.errors import Unavailable
from svc_kit.ids import uuid7
from svc_kit.outbox import Message

log = structlog.get_logger(__name__)

LEASE_SECONDS = 10.0
BEAT_SECONDS = 2.0
_TAKE_SECONDS = 0.5


class Ownership:
    """Says that this process lives, and gives up the calls of processes that do not say so any more.

    Times are the database's. A process whose database was away gives nobody up until it has beaten for a
    whole lease: the others may only have waited for the same database.
    """

    def __init__(
        self,
        gateways: GatewayStore,
        calls: CallStore,
        clock: Clock,
        *,
        slot: str,
        wake: Callable[[], None],
        lease_seconds: float = LEASE_SECONDS,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._incarnation = uuid.uuid4()
        self._gateways = gateways
        self._calls = calls
        self._clock = clock
        self._slot = slot
        self._wake = wake
        self._lease_seconds = lease_seconds
        self._beat_seconds = beat_seconds
        self._held = False
        self._steady_since: float | None = None
        self._abandoned: set[uuid.UUID] = set()

    def owner(self) -> uuid.UUID:
        """Whose the calls of this process are; raises DATABASE_UNAVAILABLE while it has no slot."""
        if not self._held:
            raise no_slot_yet()
        return self._incarnation

    def abandon(self, call: ToolCall) -> None:
        """Leave the end of a call of this process to the sweep, since its own could not be stored."""
        self._abandoned.add(call.audit_event)

    async def start(self) -> None:
        """Take the slot, now or, when the database is away, as soon as it is back."""
        try:
            await self._take()
        except Unavailable:
            log.warning("slot_not_taken_yet", slot=self._slot)

    async def run(self) -> None:
        """For ever: beat and sweep; ends only by cancellation."""
        while True:
            await asyncio.sleep(self._beat_seconds if self._held else _TAKE_SECONDS)
            try:
                if not self._held:
                    await self._take()
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
            await self._gateways.leave(self._incarnation)
        except Unavailable:
            log.warning("slot_not_left", slot=self._slot)

    async def _take(self) -> None:
        """Take the slot; the calls of whoever had it before are lost."""
        await self._gateways.take(self._incarnation, self._slot)
        self._held = True
        self._steady_since = self._clock.monotonic()
        await self._give_up()

    async def _beat(self) -> None:
        await self._gateways.beat(self._incarnation, self._slot)
        if self._steady_since is None:
            self._steady_since = self._clock.monotonic()

    def _is_steady(self) -> bool:
        since = self._steady_since
        return since is not None and self._clock.monotonic() - since >= self._lease_seconds

    async def _retire(self) -> None:
        slots = await self._gateways.retire(silent_seconds=self._lease_seconds)
        if slots:
            log.warning("gateways_silent", slots=slots)

    async def _give_up(self) -> None:
        """Store the calls of processes that are not there as UNKNOWN, and tell the log of each."""
        abandoned = list(self._abandoned)
        while count := await self._calls.give_up_lost(abandoned, self._lost):
            log.warning("calls_lost", count=count)
            self._wake()
        self._abandoned.difference_update(abandoned)

    def _lost(self, call: ToolCall) -> tuple[Outcome, Message]:
        outcome = lost(now=self._clock.now())
        event = result_event(call, outcome, event_id=uuid7(), audit_index=call.audit_index)
        return outcome, to_message(TOOL_RESULT, event, call_id=call.asked.call_id)
