"""What every refusal leaves behind: a row with the verdicts, and an entry in the audit log."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from gateway_svc.audit_events import TOOL_CALL, asked_part, call_event, to_message
from gateway_svc.pipeline.pending import Pending
from gateway_svc.told_store import Told
from gateway_svc.tool_call import CallKey, CallStatus, ToolCall
from svc_kit.clock import Clock
from svc_kit.errors import DomainError
from svc_kit.ids import uuid7
from svc_kit.strict_json import MAX_BYTES


class Refusals(Protocol):
    """What is asked of the store."""

    async def refuse(self, call: ToolCall, told: Told) -> None:
        """Store a refusal and what the log is told of it, in one transaction."""

    async def find(self, key: CallKey) -> ToolCall | None:
        """One call."""


class Refusal:
    """Stores refusals; a refused call may be asked for again under the same id."""

    def __init__(self, store: Refusals, clock: Clock, *, wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake

    async def record_once(self, pending: Pending, error: DomainError) -> None:
        """Record what will be asked for again and again until it is let in, the first time alone."""
        stored = await self._store.find(pending.asked.key)
        if stored is None or (stored.status, stored.reason) != (CallStatus.REFUSED, error.reason_name):
            await self.record(pending, error)

    async def record(self, pending: Pending, error: DomainError) -> None:
        """The log gets the arguments as they came, if they are within what it takes."""
        call = refused(pending, reason=error.reason_name, message=error.message, time=self._clock.now())
        event = call_event(call, event_id=call.audit_event, time=call.create_time, actor=pending.caller)
        body = pending.arguments_json.encode()
        keep = len(body) <= MAX_BYTES
        await self._store.refuse(
            call,
            Told(
                message=to_message(TOOL_CALL, event),
                part=asked_part(call.asked) if keep else "",
                content_type="application/json" if error.reason_name != "ARGUMENTS_INVALID" else "text/plain",
                body=body if keep else b"",
            ),
        )
        self._wake()


def refused(pending: Pending, *, reason: str, message: str, time: datetime) -> ToolCall:
    """The call as it is stored when a check refused it."""
    return ToolCall(
        asked=pending.asked,
        status=CallStatus.REFUSED,
        verdicts=pending.verdicts.all(),
        policy_ids=pending.verdicts.policy_ids,
        shadow_policy_ids=pending.verdicts.shadow_policy_ids,
        approval_id=pending.verdicts.approval_id,
        reason=reason,
        message=message,
        audit_event=uuid7(),
        create_time=time,
    )
