"""The orchestrator's published keys, asked for when one is met that is not known."""

import asyncio
import time

import grpc
import structlog

from gateway_svc.errors import keys_unavailable
from interlock.orchestrator.v1 import orchestrator_service_pb2, orchestrator_service_pb2_grpc
from svc_kit.signing import KeyRing

log = structlog.get_logger(__name__)

_FETCH_SECONDS = 2.0
# Forged key ids must not turn into a storm of questions.
_BETWEEN_FETCHES_SECONDS = 1.0
# A key that was withdrawn is trusted no longer than this.
_REFRESH_SECONDS = 300.0


class OrchestratorKeys:
    """Keeps the keys that sign step permits."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)
        self._ring = KeyRing()
        self._known: frozenset[str] = frozenset()
        self._fetched = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def ring_for(self, key_id: str) -> KeyRing:
        """The keys, asked for anew when `key_id` is not among them; raises PEER_UNAVAILABLE if that fails."""
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
                orchestrator_service_pb2.GetPublicKeysRequest(), timeout=_FETCH_SECONDS
            )
            self._ring.replace(answer.keys)
        except (grpc.aio.AioRpcError, ValueError) as error:
            log.warning("orchestrator_keys_unavailable", error=repr(error)[:300])
            if needed:
                raise keys_unavailable() from error
            return
        self._known = frozenset(key.key_id for key in answer.keys)
        self._fetched = time.monotonic()
