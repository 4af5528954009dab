"""The orchestrator's published keys, which sign step permits."""

from collections.abc import Iterable

import grpc

from interlock.common.v1.permit_pb2 import PublicKey
from interlock.orchestrator.v1 import orchestrator_service_pb2, orchestrator_service_pb2_grpc
from svc_kit.peer_keys import PeerKeys

_FETCH_SECONDS = 2.0


class OrchestratorKeys(PeerKeys):
    """The keys behind the orchestrator's GetPublicKeys."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)

        async def fetch() -> Iterable[PublicKey]:
            request = orchestrator_service_pb2.GetPublicKeysRequest()
            return (await stub.GetPublicKeys(request, timeout=_FETCH_SECONDS)).keys

        super().__init__(fetch, peer="orchestrator")
