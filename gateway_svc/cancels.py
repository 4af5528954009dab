"""Ending running calls on request, whichever gateway runs them."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import structlog

from gateway_svc.calls import Calls
from gateway_svc.errors import not_ended
from gateway_svc.tool_call import CallKey, CallStatus, ToolCall
from svc_kit.errors import Unavailable
from svc_kit.wakeup import Subscription

log = structlog.get_logger(__name__)

TOPIC = "cancels"
_LOOK_SECONDS = 0.05
_PATIENCE_SECONDS = 5.0


class CancelStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def ask_to_cancel(self, key: CallKey, *, by: str) -> None: ...
    async def to_cancel(self, owner: uuid.UUID) -> dict[CallKey, str]: ...


class Runner(Protocol):
    """Runs the tools of this process."""

    @property
    def busy(self) -> bool: ...
    def cancel(self, key: CallKey, why: str) -> None: ...


class Cancels:
    """The wish stands in the database, and the gateway that runs the call looks when it is woken."""

    def __init__(
        self,
        store: CancelStore,
        calls: Calls,
        runner: Runner,
        *,
        owner: Callable[[], uuid.UUID],
        notify: Callable[[str], None],
    ) -> None:
        self._store = store
        self._calls = calls
        self._runner = runner
        self._owner = owner
        self._notify = notify

    async def cancel(self, tenant: str, call_id: str, *, by: str) -> ToolCall:
        """The call once it has ended; raises TOOL_CALL_NOT_FOUND, or PEER_UNAVAILABLE when it did not."""
        call = await self._calls.get(tenant, call_id)
        if call.status is not CallStatus.RUNNING:
            return call
        await self._store.ask_to_cancel(call.asked.key, by=by)
        self._notify(TOPIC)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (call := await self._calls.get(tenant, call_id)).status is CallStatus.RUNNING:
            if time.monotonic() > deadline:
                raise not_ended(call_id)
            await asyncio.sleep(_LOOK_SECONDS)
        return call

    async def follow(self, woken: Subscription) -> None:
        """For ever: end what is to end here; ends by cancellation."""
        while True:
            await woken.wait()
            if not self._runner.busy:
                continue
            try:
                for key, by in (await self._store.to_cancel(self._owner())).items():
                    self._runner.cancel(key, f"{by} asked for it")
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("cancels_failed")
