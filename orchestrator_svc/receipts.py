"""The gateway's receipts: the proof that a step's outcome is what the tool call really left behind."""

import asyncio
import time
from typing import Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError

from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc, tool_call_pb2
from orchestrator_svc.errors import peer_unavailable, receipt_mismatch
from orchestrator_svc.journal import call_id
from orchestrator_svc.records import AttemptRef, StepStatus
from svc_kit.signing import RECEIPT_PURPOSE, KeyRing
from svc_kit.strict_json import digest

log = structlog.get_logger(__name__)

_FETCH_SECONDS = 2.0
# Forged key ids must not turn into a storm of questions.
_BETWEEN_FETCHES_SECONDS = 1.0
# A key that was withdrawn is trusted no longer than this.
_REFRESH_SECONDS = 300.0


class Keys(Protocol):
    """The gateway's published keys."""

    async def ring_for(self, key_id: str) -> KeyRing: ...


class GatewayKeys:
    """Keeps the keys that sign receipts, and asks again when one is met that is not known."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)
        self._ring = KeyRing()
        self._known: frozenset[str] = frozenset()
        self._fetched = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def ring_for(self, key_id: str) -> KeyRing:
        """The keys as they should hold `key_id`; raises PEER_UNAVAILABLE when they cannot be asked for."""
        if self._is_due(key_id):
            async with self._one_at_a_time:
                if self._is_due(key_id):
                    await self._fetch(needed=key_id not in self._known)
        return self._ring

    def _is_due(self, key_id: str) -> bool:
        age = time.monotonic() - self._fetched
        return age > (_REFRESH_SECONDS if key_id in self._known else _BETWEEN_FETCHES_SECONDS)

    async def _fetch(self, *, needed: bool) -> None:
        try:
            answer = await self._stub.GetPublicKeys(
                gateway_service_pb2.GetPublicKeysRequest(), timeout=_FETCH_SECONDS
            )
            self._ring.replace(answer.keys)
        except (grpc.aio.AioRpcError, ValueError) as error:
            log.warning("gateway_keys_unavailable", error=repr(error)[:300])
            if needed:
                raise peer_unavailable("gateway") from error
            return
        self._known = frozenset(key.key_id for key in answer.keys)
        self._fetched = time.monotonic()


class Receipts:
    """Checks receipts; what it lets pass binds call, arguments and outcome together."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def check(
        self, signed: permit_pb2.Signed, ref: AttemptRef, step_key: str, status: StepStatus, outcome: str
    ) -> str:
        """The digest of the arguments that the call ran with; `outcome` is the output, or the error's text.

        Raises SIGNATURE_INVALID or PEER_UNAVAILABLE.
        """
        ring = await self._keys.ring_for(signed.key_id)
        receipt = _parsed(ring.verify(RECEIPT_PURPOSE, signed))
        bound = {
            "tenant": ref.tenant,
            "task_id": str(ref.task_id),
            "step_key": step_key,
            "call_id": str(call_id(ref.task_id, step_key)),
            "is_error": status is StepStatus.FAILED,
            "result_digest": digest(outcome.encode()),
        }
        for field, expected in bound.items():
            if getattr(receipt, field) != expected:
                raise receipt_mismatch(f"is for another {field.replace('_', ' ')}")
        return receipt.argument_digest


def _parsed(payload: bytes) -> tool_call_pb2.Receipt:
    receipt = tool_call_pb2.Receipt()
    try:
        receipt.ParseFromString(payload)
    except DecodeError:
        raise receipt_mismatch("cannot be read") from None
    return receipt
