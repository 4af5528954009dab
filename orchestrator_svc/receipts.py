"""The gateway's receipts: the proof that a step's outcome is what the tool call really left behind."""

from collections.abc import Iterable
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from interlock.common.v1 import permit_pb2
from interlock.common.v1.permit_pb2 import PublicKey
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc, tool_call_pb2
from orchestrator_svc.errors import receipt_mismatch
from orchestrator_svc.records import AttemptRef, StepStatus
from svc_kit.peer_keys import PeerKeys
from svc_kit.signing import RECEIPT_PURPOSE, KeyRing
from svc_kit.strict_json import digest

_FETCH_SECONDS = 2.0


class Keys(Protocol):
    """The gateway's published keys."""

    async def ring_for(self, key_id: str) -> KeyRing: ...


class GatewayKeys(PeerKeys):
    """The keys behind the gateway's GetPublicKeys, which sign receipts."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)

        async def fetch() -> Iterable[PublicKey]:
            request = gateway_service_pb2.GetPublicKeysRequest()
            return (await stub.GetPublicKeys(request, timeout=_FETCH_SECONDS)).keys

        super().__init__(fetch, peer="gateway")


class Receipts:
    """Checks receipts; what it lets pass binds call, arguments and outcome together."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def check(
        self, signed: permit_pb2.Signed, ref: AttemptRef, step_key: str, status: StepStatus, outcome: str
    ) -> tool_call_pb2.Receipt:
        """The receipt, for the journal knows arguments and call id; `outcome` is output, or the error's text.

        Raises SIGNATURE_INVALID or PEER_UNAVAILABLE.
        """
        ring = await self._keys.ring_for(signed.key_id)
        receipt = _parsed(ring.verify(RECEIPT_PURPOSE, signed))
        bound = {
            "tenant": ref.tenant,
            "task_id": str(ref.task_id),
            "step_key": step_key,
            "is_error": status is StepStatus.FAILED,
            "result_digest": digest(outcome.encode()),
        }
        for field, expected in bound.items():
            if getattr(receipt, field) != expected:
                raise receipt_mismatch(f"is for another {field.replace('_', ' ')}")
        return receipt


def _parsed(payload: bytes) -> tool_call_pb2.Receipt:
    receipt = tool_call_pb2.Receipt()
    try:
        receipt.ParseFromString(payload)
    except DecodeError:
        raise receipt_mismatch("cannot be read") from None
    return receipt
