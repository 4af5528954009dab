"""Step 13: the outcome is stored with what the log is told of it; a receipt is signed."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import structlog

from gateway_svc.audit_events import TOOL_RESULT, result_event, to_message
from gateway_svc.pipeline.pending import Begun
from gateway_svc.pipeline.result import lost
from gateway_svc.told_store import Told
from gateway_svc.tool_call import CallKind, CallStatus, Outcome, SignedReceipt, ToolCall
from interlock.gateway.v1 import tool_call_pb2
from svc_kit.errors import Unavailable
from svc_kit.ids import uuid7
from svc_kit.signing import RECEIPT_PURPOSE, SigningKey
from svc_kit.strict_json import digest

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5


class Endings(Protocol):
    """What this step asks of the store."""

    async def finish(self, call: ToolCall, outcome: Outcome, *, audit_index: int, told: Told) -> bool:
        """Store how a call ended with what the log is told of it; False when it is not the owner's to end."""


class Outcomes:
    """Stores outcomes; tries until the database takes them, since what was executed cannot be taken back."""

    def __init__(
        self,
        store: Endings,
        key: SigningKey,
        *,
        wake: Callable[[], None],
        abandon: Callable[[ToolCall], None],
    ) -> None:
        self._store = store
        self._key = key
        self._wake = wake
        self._abandon = abandon

    async def store(self, begun: Begun, outcome: Outcome) -> Outcome | None:
        """The outcome as stored, with its receipt; None when another one stands, or will.

        An outcome that cannot be stored is answered as lost, and the sweep stores that.
        """
        if outcome.status is not CallStatus.UNKNOWN:
            outcome = replace(outcome, receipt=self._receipt(begun, outcome))
        asked = begun.call.asked
        event = result_event(begun.call, outcome, event_id=uuid7(), audit_index=begun.audit_index)
        told = Told(message=to_message(TOOL_RESULT, event, call_id=asked.call_id))
        while True:
            try:
                stored = await self._store.finish(
                    begun.call, outcome, audit_index=begun.audit_index, told=told
                )
            except Unavailable:
                log.warning("outcome_not_stored_yet", call_id=str(asked.call_id))
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                log.exception("outcome_not_stored", call_id=str(asked.call_id))
                self._abandon(begun.call)
                return lost(now=outcome.end_time)
            else:
                self._wake()
                return outcome if stored else None

    def _receipt(self, begun: Begun, outcome: Outcome) -> SignedReceipt:
        asked = begun.call.asked
        failed = outcome.status is CallStatus.FAILED
        said = outcome.error_message if outcome.is_error else outcome.message
        left = said if failed else outcome.result_json
        receipt = tool_call_pb2.Receipt(
            tenant=asked.tenant,
            call_id=str(asked.call_id),
            task_id=str(asked.task_id),
            step_key=asked.step_key,
            tool_digest=asked.tool_digest,
            argument_digest=asked.argument_digest,
            result_digest=digest(left.encode()),
            is_error=failed,
            audit_index=begun.audit_index,
            isolation=outcome.isolation,
            approval_id=str(begun.call.approval_id) if begun.call.approval_id else "",
            policy_ids=begun.call.policy_ids,
            agent_digest=asked.agent_digest,
        )
        if asked.kind is CallKind.MODEL:
            receipt.connection = asked.tool
        if outcome.usage is not None:
            receipt.usage.input_tokens = outcome.usage.input_tokens
            receipt.usage.output_tokens = outcome.usage.output_tokens
            receipt.usage.cost_micros = outcome.usage.cost_micros
        receipt.end_time.FromDatetime(outcome.end_time)
        signed = self._key.sign(RECEIPT_PURPOSE, receipt.SerializeToString(deterministic=True))
        return SignedReceipt(key_id=signed.key_id, payload=signed.payload, signature=signed.signature)
