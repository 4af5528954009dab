"""The worker's calls to the gateway."""

import grpc

from interlock.common.time_limits import MODEL_SECONDS, TOOL_SECONDS
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from svc_kit.status import RemoteError
from worker_svc.patience import until_answered

# The gateway bounds each call itself; this only ends a call whose gateway has vanished without a word.
_SLACK_SECONDS = 30.0
_NOT_DECIDED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
_OF_THE_PROVIDER = frozenset({"MODEL_BUSY", "MODEL_UNAVAILABLE", "QUOTA_EXCEEDED"})


class Gateway:
    """ExecuteTool, sent again for as long as nothing was decided.

    A gateway's absence is no failure of the task.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = gateway_service_pb2_grpc.GatewayServiceStub(channel)

    async def execute(
        self, permit: permit_pb2.Signed, arguments_json: str
    ) -> gateway_service_pb2.ExecuteToolResponse:
        """The outcome of the call; the call id within the permit makes a repeat safe. Raises RemoteError."""
        request = gateway_service_pb2.ExecuteToolRequest(permit=permit, arguments_json=arguments_json)
        return await until_answered(
            lambda: self._stub.ExecuteTool(request, timeout=TOOL_SECONDS + _SLACK_SECONDS), again=_undecided
        )

    async def call_model(
        self, permit: permit_pb2.Signed, request_json: str
    ) -> gateway_service_pb2.CallModelResponse:
        """The outcome of a model call; the call id within the permit makes a repeat safe. Raises RemoteError.

        A provider that is away or busy, and a quota that is used up, are told at once: how long to leave it
        alone is for the task to wait.
        """
        request = gateway_service_pb2.CallModelRequest(permit=permit, request_json=request_json)
        return await until_answered(
            lambda: self._stub.CallModel(request, timeout=MODEL_SECONDS + _SLACK_SECONDS),
            again=lambda problem: _undecided(problem) and problem.reason not in _OF_THE_PROVIDER,
        )


def is_verdict(problem: RemoteError) -> bool:
    """Whether a check refused the call: asking again would be refused again."""
    return problem.metadata.get("verdict") == "true"


def was_executed(problem: RemoteError) -> bool:
    """Whether the error is the outcome of a call that ran."""
    return problem.metadata.get("execution_state") == "COMPLETED"


def _undecided(problem: RemoteError) -> bool:
    return problem.code in _NOT_DECIDED and not is_verdict(problem) and not was_executed(problem)
