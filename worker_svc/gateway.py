"""The worker's calls to the gateway."""

import asyncio
import random

import grpc

from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from svc_kit.status import RemoteError, from_rpc_error

# The gateway bounds each call itself; this only ends a call whose gateway has vanished without a word.
_CALL_SECONDS = 330.0
_PATIENCE_SECONDS = 5.0
_FIRST_WAIT_SECONDS = 0.05
_LAST_WAIT_SECONDS = 1.0
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


class Refusal(Exception):
    """The gateway answered with an error; `state` says how far the call came."""

    def __init__(self, remote: RemoteError) -> None:
        super().__init__(str(remote))
        self.remote = remote

    @property
    def state(self) -> str:
        """NOT_STARTED, STARTED, COMPLETED or UNKNOWN; empty when it was not the gateway that answered."""
        return self.remote.metadata.get("execution_state", "")


class Gateway:
    """ExecuteTool, repeated for a few seconds while nothing was started because something was away."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)

    async def execute(
        self, permit: permit_pb2.Signed, arguments_json: str
    ) -> gateway_service_pb2.ExecuteToolResponse:
        """The outcome of the call. The call id within the permit makes a repeat safe. Raises Refusal."""
        request = gateway_service_pb2.ExecuteToolRequest(permit=permit, arguments_json=arguments_json)
        give_up = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                return await self._stub.ExecuteTool(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                remote = from_rpc_error(error)
                limit = remote.reason == "LIMIT_EXCEEDED"
                if remote.code not in _AWAY or limit or asyncio.get_running_loop().time() > give_up:
                    raise Refusal(remote) from error
                wait = max(wait, min(remote.retry_after or 0.0, _LAST_WAIT_SECONDS))
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
            wait = min(wait * 2, _LAST_WAIT_SECONDS)
