"""Step 3, between processes: a call that stands already is answered from its row, or waited for."""

import asyncio
from typing import Protocol

from gateway_svc.errors import permit_mismatch, still_running
from gateway_svc.pipeline.pending import Pending
from gateway_svc.tool_call import CallKey, CallStatus, ToolCall

_FIRST_POLL_SECONDS = 0.02
_LAST_POLL_SECONDS = 0.5


class Calls(Protocol):
    """What this step asks of the store."""

    async def find(self, key: CallKey) -> ToolCall | None:
        """One call."""


class Replay:
    """Looks a call up by its id."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def find(self, pending: Pending) -> ToolCall | None:
        """The call, ended or UNKNOWN; None when it may begin. Waits while another process runs it."""
        poll = _FIRST_POLL_SECONDS
        while True:
            stored = await self._calls.find(pending.asked.key)
            if stored is None or stored.status is CallStatus.REFUSED:
                return None
            if stored.asked.argument_digest != pending.asked.argument_digest:
                raise permit_mismatch("argument_digest", "the same call id stands with other arguments")
            if stored.status is not CallStatus.RUNNING:
                return stored
            if pending.seconds_left() <= poll:
                raise still_running()
            await asyncio.sleep(poll)
            poll = min(poll * 2, _LAST_POLL_SECONDS)
