"""A server in this process whose orchestrator does what a test says."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, task_pb2

Updates = list[messages.WatchTaskResponse | grpc.StatusCode]


@dataclass
class Orchestrator(orchestrator_service_pb2_grpc.OrchestratorServiceServicer):
    """Answers watches from a script, one list a stream, and fails calls as often as it is told."""

    address: str
    streams: list[Updates] = field(default_factory=list)
    asked_after: list[int] = field(default_factory=list)
    failures: int = 0
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str | bytes]] = field(default_factory=list)

    async def WatchTask(self, request: messages.WatchTaskRequest, context: Any) -> Any:
        self.asked_after.append(request.after_revision)
        for update in self.streams.pop(0):
            if isinstance(update, grpc.StatusCode):
                await context.abort(update, "as the script says")
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

    async def CancelTask(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not in this script")

    ListTasks = RetryTask = ListTaskSteps = GetPublicKeys = CancelTask
    PauseTask = ResumeTask = ProvideInput = RedriveTasks = ListChildTasks = CancelTask

    async def WatchAttempts(self, request: Any, context: Any) -> Any:
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
