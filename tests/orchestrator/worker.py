"""A worker that does what a test tells it, over the real WorkerService."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration

from interlock.common import documents
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from tests.orchestrator.peers import TOOL, Gateway

if TYPE_CHECKING:
    from interlock.orchestrator.v1 import worker_service_pb2_grpc

    Stub = worker_service_pb2_grpc.WorkerServiceAsyncStub


class Session:
    """An open session: the stream, and what came over it."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.attempts: list[messages.AttemptRef] = []
        self.answers: asyncio.Queue[messages.WorkerSessionResponse] = asyncio.Queue()
        self.beat = asyncio.Event()

    async def directive(
        self, directive: messages.Directive.ValueType, seconds: float = 10
    ) -> messages.AttemptDirective:
        """The next directive of that kind."""
        async with asyncio.timeout(seconds):
            while True:
                answer = await self.answers.get()
                for each in answer.directives:
                    if each.directive == directive:
                        return each


class Worker:
    """One worker process, as the orchestrator sees it."""

    def __init__(self, stub: "Stub", gateway: Gateway) -> None:
        self.stub = stub
        self.gateway = gateway

    @asynccontextmanager
    async def session(
        self,
        *,
        slot: str = "host/worker-0",
        incarnation: int = 1,
        session_id: str = "",
        pools: tuple[str, ...] = ("default",),
    ) -> AsyncIterator[Session]:
        """Heartbeats as the orchestrator asks for, until the block ends and the stream breaks off."""
        session = Session(session_id or str(uuid.uuid4()))
        stream = self.stub.WorkerSession()
        opened = messages.OpenSession(
            session_id=session.session_id, slot=slot, incarnation=incarnation, pools=pools, capacity=8
        )
        await stream.write(messages.WorkerSessionRequest(open=opened))
        first = await stream.read()
        assert isinstance(first, messages.WorkerSessionResponse)
        session.answers.put_nowait(first)

        async def listen() -> None:
            async for answer in stream:
                session.answers.put_nowait(answer)

        async def beat() -> None:
            interval = first.heartbeat_interval.ToNanoseconds() / 1e9
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(interval):
                        await session.beat.wait()
                session.beat.clear()
                heartbeat = messages.Heartbeat(attempts=session.attempts)
                await stream.write(messages.WorkerSessionRequest(heartbeat=heartbeat))

        tasks = [asyncio.create_task(listen()), asyncio.create_task(beat())]
        try:
            yield session
        finally:
            for task in tasks:
                task.cancel()
            stream.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def claim(
        self, session: Session, *, claim_id: str = "", pool: str = "default"
    ) -> messages.ClaimedTask | None:
        answer = await self.stub.ClaimTask(
            messages.ClaimTaskRequest(
                session_id=session.session_id, pool=pool, claim_id=claim_id or str(uuid.uuid4())
            )
        )
        if not answer.HasField("claimed"):
            return None
        ref = messages.AttemptRef(task_id=answer.claimed.task_id, attempt=answer.claimed.attempt)
        session.attempts.append(ref)
        return answer.claimed

    async def must_claim(self, session: Session, seconds: float = 10) -> messages.ClaimedTask:
        """Claims until there is something."""
        async with asyncio.timeout(seconds):
            while True:
                claimed = await self.claim(session)
                if claimed is not None:
                    return claimed
                await asyncio.sleep(0.02)

    async def begin(
        self,
        claimed: messages.ClaimedTask,
        key: str = "read",
        arguments: Any = None,
        *,
        tool: str = TOOL,
        kind: task_pb2.StepKind.ValueType = task_pb2.STEP_KIND_TOOL_CALL,
        finish: messages.FinishStep | None = None,
    ) -> messages.RecordStepResponse:
        begun = messages.BeginStep(
            step_key=key,
            kind=kind,
            name=tool,
            input_json=json.dumps(arguments if arguments is not None else {"path": "a.csv"}),
        )
        return await self.stub.RecordStep(
            messages.RecordStepRequest(attempt_token=claimed.attempt_token, begin=begun, finish=finish)
        )

    def finished(
        self,
        begun: messages.RecordStepResponse,
        output: Any,
        *,
        error: str = "",
        usage: tool_call_pb2.ModelUsage | None = None,
    ) -> messages.FinishStep:
        """The end of a step that was begun, with the gateway's receipt."""
        permit = permit_pb2.StepPermit.FromString(begun.start.permit.payload)
        if error:
            text, receipt = self.gateway.receipt(permit, error, is_error=True)
            return messages.FinishStep(
                step_key=permit.step_key,
                status=task_pb2.STEP_STATUS_FAILED,
                error=task_pb2.TaskError(error_class="ValueError", message=text),
                receipt=receipt,
            )
        text, receipt = self.gateway.receipt(permit, output, usage=usage)
        return messages.FinishStep(
            step_key=permit.step_key,
            status=task_pb2.STEP_STATUS_COMPLETED,
            output_json=text,
            receipt=receipt,
        )

    async def record(self, claimed: messages.ClaimedTask, finish: messages.FinishStep) -> None:
        await self.stub.RecordStep(
            messages.RecordStepRequest(attempt_token=claimed.attempt_token, finish=finish)
        )

    async def complete(
        self,
        claimed: messages.ClaimedTask,
        result: Any = None,
        *,
        finish: messages.FinishStep | None = None,
    ) -> None:
        await self.stub.CompleteTask(
            messages.CompleteTaskRequest(
                attempt_token=claimed.attempt_token,
                result_json=json.dumps(result if result is not None else {"rows": 3}),
                finish=finish,
            )
        )

    async def fail(
        self,
        claimed: messages.ClaimedTask,
        error_class: str = "ValueError",
        *,
        retryable: bool = True,
        retry_delay: float | None = None,
    ) -> task_pb2.TaskState.ValueType:
        request = messages.FailTaskRequest(
            attempt_token=claimed.attempt_token,
            error=task_pb2.TaskError(error_class=error_class, message="it broke", retryable=retryable),
        )
        if retry_delay is not None:
            request.retry_delay.CopyFrom(_duration(retry_delay))
        return (await self.stub.FailTask(request)).state

    async def ask(
        self,
        claimed: messages.ClaimedTask,
        input_id: str = "sure",
        *,
        schema: str = "",
        kind: int = 1,
        step_key: str = "",
    ) -> messages.RequestInputResponse:
        return await self.stub.RequestInput(
            messages.RequestInputRequest(
                attempt_token=claimed.attempt_token,
                input_id=input_id,
                kind=task_pb2.InputKind.ValueType(kind),
                step_key=step_key,
                prompt="Are you sure?",
                schema_json=schema,
            )
        )

    async def put_result(self, claimed: messages.ClaimedTask, data: bytes) -> messages.PutResultBlobResponse:
        def sent() -> Iterator[messages.PutResultBlobRequest]:
            for number, chunk in enumerate(documents.chunks(data)):
                token = claimed.attempt_token if not number else None
                yield messages.PutResultBlobRequest(attempt_token=token, chunk=chunk)

        return await self.stub.PutResultBlob(sent())

    async def release(self, claimed: messages.ClaimedTask) -> None:
        await self.stub.ReleaseTask(messages.ReleaseTaskRequest(attempt_token=claimed.attempt_token))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
