"""The worker's calls to the orchestrator, repeated over its restarts."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from interlock.common import documents
from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from interlock.orchestrator.v1 import worker_service_pb2_grpc
from svc_kit.status import RemoteError
from worker_svc.errors import StaleAttempt
from worker_svc.patience import is_away, until_answered

Answer = TypeVar("Answer")

_CALL_SECONDS = 10.0
_BLOB_SECONDS = 60.0
_PROGRESS_SECONDS = 2.0
# Each says that the right to act has passed to somebody else, or to nobody.
_STALE = frozenset({"STALE_ATTEMPT", "ATTEMPT_TOKEN_MISMATCH", "ATTEMPT_TOKEN_EXPIRED", "SESSION_NOT_FOUND"})


class Orchestrator:
    """WorkerService as one worker process uses it.

    Every write is idempotent, so what may or may not have arrived is sent again until it is answered; an
    attempt whose lease has run out meanwhile ends with StaleAttempt.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(channel)

    async def claim(self, *, session_id: str, pool: str, claim_id: str) -> messages.ClaimTaskResponse:
        """The next task of a pool, if any; raises grpc.aio.AioRpcError at once, for nudges come again."""
        return await self._stub.ClaimTask(
            messages.ClaimTaskRequest(session_id=session_id, pool=pool, claim_id=claim_id),
            timeout=_CALL_SECONDS,
        )

    async def record_step(self, request: messages.RecordStepRequest) -> messages.RecordStepResponse:
        """Finish and begin steps."""
        return await _written(lambda: self._stub.RecordStep(request, timeout=_CALL_SECONDS))

    async def input_blob(self, token: permit_pb2.Signed, named: str) -> str:
        """The task's input where that is a blob."""

        async def fetched() -> str:
            request = messages.GetInputBlobRequest(attempt_token=token)
            answers = self._stub.GetInputBlob(request, timeout=_BLOB_SECONDS)
            return await documents.gathered((answer.chunk async for answer in answers), named=named)

        return await _written(fetched)

    async def put_result(self, token: permit_pb2.Signed, data: bytes) -> str:
        """The digest under which a large result is stored."""
        head = messages.PutResultBlobRequest(attempt_token=token, digest=documents.digest(data))

        async def put() -> messages.PutResultBlobResponse:
            body = (messages.PutResultBlobRequest(chunk=chunk) for chunk in documents.chunks(data))
            answer: messages.PutResultBlobResponse = await documents.upload(
                self._stub.PutResultBlob, head, body, timeout=_BLOB_SECONDS
            )
            return answer

        def again(problem: RemoteError) -> bool:
            # Where the peer hangs up while the body goes out, grpc tells of its own failed write alone.
            cut_off = problem.code is grpc.StatusCode.INTERNAL and not problem.reason
            return cut_off or (is_away(problem) and problem.reason != "BLOB_QUOTA")

        return (await _written(put, again=again)).digest

    async def complete(self, request: messages.CompleteTaskRequest) -> None:
        """End the attempt with a result."""
        await _written(lambda: self._stub.CompleteTask(request, timeout=_CALL_SECONDS))

    async def fail(self, request: messages.FailTaskRequest) -> None:
        """End the attempt with a failure."""
        await _written(lambda: self._stub.FailTask(request, timeout=_CALL_SECONDS))

    async def request_input(self, request: messages.RequestInputRequest) -> messages.RequestInputResponse:
        """Ask a person; without an answer the attempt is over."""
        return await _written(lambda: self._stub.RequestInput(request, timeout=_CALL_SECONDS))

    async def await_children(self, request: messages.AwaitChildrenRequest) -> messages.AwaitChildrenResponse:
        """Which child tasks have ended; without one the attempt is over."""
        return await _written(lambda: self._stub.AwaitChildren(request, timeout=_CALL_SECONDS))

    async def emit_progress(self, request: messages.EmitProgressRequest) -> None:
        """Show what attempts say, once; raises grpc.aio.AioRpcError."""
        await self._stub.EmitProgress(request, timeout=_PROGRESS_SECONDS)

    async def give_back(self, request: messages.ReleaseTaskRequest) -> None:
        """End the attempt without a failure."""
        await _written(lambda: self._stub.ReleaseTask(request, timeout=_CALL_SECONDS))

    async def release(self, token: permit_pb2.Signed) -> None:
        """Give the task back, once: a worker that stops does not wait for an orchestrator that is away."""
        await self._stub.ReleaseTask(messages.ReleaseTaskRequest(attempt_token=token), timeout=2.0)


async def _written(
    call: Callable[[], Awaitable[Answer]], *, again: Callable[[RemoteError], bool] = is_away
) -> Answer:
    """Raises StaleAttempt, or RemoteError when the orchestrator refuses what the call says."""
    try:
        return await until_answered(call, again=again)
    except RemoteError as problem:
        if problem.reason in _STALE:
            raise StaleAttempt(problem.message) from problem
        raise
