"""A server in this process whose orchestrator does what a test says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, task_pb2
from svc_kit.errors import DomainError
from svc_kit.status import STATUS_KEY, to_status

Updates = list[messages.WatchTaskResponse | grpc.StatusCode | DomainError]
ListUpdates = list[messages.WatchTasksResponse | DomainError]


async def abort(context: Any, error: DomainError) -> None:
    """End a call as a service does."""
    context.set_trailing_metadata(((STATUS_KEY, to_status(error, "r-1").SerializeToString()),))
    await context.abort(error.code, error.message)


@dataclass
class Orchestrator(orchestrator_service_pb2_grpc.OrchestratorServiceServicer):
    """Answers watches from a script, one list a stream, and fails calls as often as it is told."""

    address: str
    streams: list[Updates] = field(default_factory=list)
    asked_after: list[int] = field(default_factory=list)
    waits: list[task_pb2.TaskState.ValueType] = field(default_factory=list)
    list_streams: list[ListUpdates] = field(default_factory=list)
    cursors: list[str] = field(default_factory=list)
    failures: int = 0
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)

    async def WatchTask(self, request: messages.WatchTaskRequest, context: Any) -> Any:
        self.asked_after.append(request.after_revision)
        for update in self.streams.pop(0):
            if isinstance(update, DomainError):
                await abort(context, update)
            elif isinstance(update, grpc.StatusCode):
                await context.abort(update, "as the script says")
            else:
                yield update

    async def WatchTasks(self, request: messages.WatchTasksRequest, context: Any) -> Any:
        self.cursors.append(request.cursor)
        for update in self.list_streams.pop(0):
            if isinstance(update, DomainError):
                await abort(context, update)
            else:
                yield update

    async def SubmitTask(self, request: messages.SubmitTaskRequest, context: Any) -> Any:
        await self._take(request, context)
        return messages.SubmitTaskResponse(task=task_pb2.Task(task_id="1", agent=request.agent))

    async def GetTask(self, request: messages.GetTaskRequest, context: Any) -> Any:
        await self._take(request, context)
        return messages.GetTaskResponse(
            task=task_pb2.Task(task_id=request.task_id, state=task_pb2.TASK_STATE_COMPLETED)
        )

    async def WaitTask(self, request: messages.WaitTaskRequest, context: Any) -> Any:
        await self._take(request, context)
        state = self.waits.pop(0)
        return messages.WaitTaskResponse(task=task_pb2.Task(task_id=request.task_id, state=state))

    async def CancelTask(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this script")

    ListTaskEvents = CountTasks = QueryTaskMetrics = CancelTask
    ListTasks = RetryTask = ListTaskSteps = GetPublicKeys = CancelTask
    PauseTask = ResumeTask = ProvideInput = RedriveTasks = ListChildTasks = CancelTask

    async def ExplainTask(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def WatchAttempts(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this script")
        yield

    async def PutBlob(self, request_iterator: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this script")

    async def GetBlob(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this script")
        yield

    async def _take(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    """It, listening."""
    server = grpc.aio.server()
    double = Orchestrator(address=f"unix:{tmp_path}/door")
    orchestrator_service_pb2_grpc.add_OrchestratorServiceServicer_to_server(double, server)
    server.add_insecure_port(double.address)
    await server.start()
    yield double
    await server.stop(None)
