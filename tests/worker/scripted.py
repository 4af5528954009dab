"""An orchestrator, a gateway and a registry that answer as they are told, over real gRPC."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from interlock.client.registry_feed import RegistryFeed
from interlock.common.v1 import errors_pb2, permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2_grpc
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from interlock.registry.v1 import agent_pb2, registry_service_pb2, registry_service_pb2_grpc
from svc_kit.errors import (
    Aborted,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unknown,
)
from svc_kit.status import STATUS_KEY, to_status
from worker_svc.attempts import Attempt, Attempts
from worker_svc.claims import Claims
from worker_svc.gateway import Gateway
from worker_svc.orchestrator import Orchestrator
from worker_svc.progress import Progress
from worker_svc.runner import Runner
from worker_svc.runtimes.python import Agent, TrustedAgents
from worker_svc.runtimes.sandboxed import SandboxedAgents

AWAY = Unavailable(errors_pb2.ERROR_REASON_PEER_UNAVAILABLE, "away for now", retry_after=0.01)
STALE = Aborted(errors_pb2.ERROR_REASON_STALE_ATTEMPT, "not the live one")
NOT_ACCEPTED = InvalidArgument(errors_pb2.ERROR_REASON_INVALID_FIELDS, "finish.error: not accepted")
DENIED = PermissionDenied(
    errors_pb2.ERROR_REASON_POLICY_DENIED,
    "no policy allows it",
    metadata={"execution_state": "NOT_STARTED", "verdict": "true"},
)
LOST = Unknown(
    errors_pb2.ERROR_REASON_OUTCOME_UNKNOWN, "lost while it ran", metadata={"execution_state": "UNKNOWN"}
)
FULL = ResourceExhausted(errors_pb2.ERROR_REASON_BLOB_QUOTA, "no room")
CHANGED = FailedPrecondition(errors_pb2.ERROR_REASON_NONDETERMINISM, "with other input")


@dataclass
class Script:
    """What is to be answered, and what was asked.

    An error in a queue is answered once, before the normal answer.
    """

    errors: dict[str, deque[DomainError]] = field(default_factory=dict)
    steps: list[messages.RecordStepRequest] = field(default_factory=list)
    completed: list[messages.CompleteTaskRequest] = field(default_factory=list)
    failed: list[messages.FailTaskRequest] = field(default_factory=list)
    released: list[messages.ReleaseTaskRequest] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)
    input_chunks: list[bytes] = field(default_factory=list)
    asked: list[messages.RequestInputRequest] = field(default_factory=list)
    said: list[messages.AttemptProgress] = field(default_factory=list)
    drained: bool = False
    executed: list[str] = field(default_factory=list)
    patience: dict[str, float] = field(default_factory=dict)  # of the last call of each method, in seconds
    claimable: deque[messages.ClaimedTask] = field(default_factory=deque)
    # Holds up the answer to a claim until it is set.
    claims_answered: asyncio.Event = field(default_factory=asyncio.Event)
    claim_asked: asyncio.Event = field(default_factory=asyncio.Event)
    claim_ids: list[str] = field(default_factory=list)

    def will_fail(self, method: str, *errors: DomainError) -> None:
        """Answer the next calls of a method with these errors."""
        self.errors.setdefault(method, deque()).extend(errors)

    async def check(self, method: str, context: Any) -> None:
        """Answer an error if one is due."""
        due = self.errors.get(method)
        if due:
            error = due.popleft()
            status = to_status(error, "request")
            await context.abort(error.code, error.message, ((STATUS_KEY, status.SerializeToString()),))

    def finished(self) -> list[str]:
        """The keys of the steps whose end was told, by whatever message."""
        told = [request.finish for request in self.steps if request.HasField("finish")]
        told += [request.finish for request in self.completed if request.HasField("finish")]
        told += [request.finish for request in self.failed if request.HasField("finish")]
        told += [request.finish for request in self.released if request.HasField("finish")]
        return sorted(finish.step_key for finish in told)


class _Orchestrator(worker_service_pb2_grpc.WorkerServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def ClaimTask(self, request: Any, context: Any) -> messages.ClaimTaskResponse:
        self._script.claim_asked.set()
        self._script.claim_ids.append(request.claim_id)
        await self._script.check("ClaimTask", context)
        await self._script.claims_answered.wait()
        if not self._script.claimable:
            return messages.ClaimTaskResponse(draining=self._script.drained)
        return messages.ClaimTaskResponse(claimed=self._script.claimable.popleft())

    async def RecordStep(
        self, request: messages.RecordStepRequest, context: Any
    ) -> messages.RecordStepResponse:
        await self._script.check("RecordStep", context)
        self._script.steps.append(request)
        if not request.HasField("begin"):
            return messages.RecordStepResponse()
        start = messages.StartStep(call_id=request.begin.step_key, input_json=request.begin.input_json)
        start.permit.key_id = request.begin.step_key
        return messages.RecordStepResponse(start=start)

    async def CompleteTask(self, request: Any, context: Any) -> messages.CompleteTaskResponse:
        await self._script.check("CompleteTask", context)
        self._script.completed.append(request)
        return messages.CompleteTaskResponse()

    async def FailTask(self, request: Any, context: Any) -> messages.FailTaskResponse:
        await self._script.check("FailTask", context)
        self._script.failed.append(request)
        return messages.FailTaskResponse(state=task_pb2.TASK_STATE_FAILED)

    async def PutResultBlob(self, request_iterator: Any, context: Any) -> messages.PutResultBlobResponse:
        # As the real one does: a refusal that overtakes the first message can reach the sender as a cut.
        first = await anext(request_iterator)
        await self._script.check("PutResultBlob", context)
        await context.send_initial_metadata(())
        sent = [first, *[request async for request in request_iterator]]
        self._script.blobs.append(b"".join(request.chunk for request in sent))
        return messages.PutResultBlobResponse(digest=sent[0].digest)

    async def GetInputBlob(self, request: Any, context: Any) -> Any:
        for chunk in self._script.input_chunks:
            yield messages.GetInputBlobResponse(chunk=chunk)

    async def RequestInput(
        self, request: messages.RequestInputRequest, context: Any
    ) -> messages.RequestInputResponse:
        self._script.asked.append(request)
        return messages.RequestInputResponse()

    async def EmitProgress(self, request: Any, context: Any) -> messages.EmitProgressResponse:
        await self._script.check("EmitProgress", context)
        self._script.said.extend(request.progress)
        return messages.EmitProgressResponse()

    async def ReleaseTask(self, request: Any, context: Any) -> messages.ReleaseTaskResponse:
        self._script.released.append(request)
        return messages.ReleaseTaskResponse()


class _Gateway(gateway_service_pb2_grpc.GatewayServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def ExecuteTool(self, request: Any, context: Any) -> gateway_service_pb2.ExecuteToolResponse:
        await self._script.check("ExecuteTool", context)
        self._script.patience["ExecuteTool"] = context.time_remaining()
        self._script.executed.append(request.permit.key_id)
        return gateway_service_pb2.ExecuteToolResponse(result_json=request.arguments_json)

    async def CallModel(self, request: Any, context: Any) -> gateway_service_pb2.CallModelResponse:
        self._script.patience["CallModel"] = context.time_remaining()
        return gateway_service_pb2.CallModelResponse(result_json="{}")


class _Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def GetAgent(self, request: Any, context: Any) -> registry_service_pb2.GetAgentResponse:
        await self._script.check("GetAgent", context)
        return registry_service_pb2.GetAgentResponse(agent=agent_pb2.Agent(name=request.name))

    async def GetAgentVersion(
        self, request: Any, context: Any
    ) -> registry_service_pb2.GetAgentVersionResponse:
        spec = agent_pb2.AgentSpec(python=agent_pb2.PythonRuntime(entry_point="agent"))
        version = agent_pb2.AgentVersion(agent=request.agent, version="1.0.0", digest="d", spec=spec)
        return registry_service_pb2.GetAgentVersionResponse(agent_version=version)


class _Trusted(TrustedAgents):
    """Has one agent."""

    def __init__(self, agent: Agent) -> None:
        super().__init__(["agent"])
        self._loaded["agent"] = agent


class _AlwaysOpen:
    session_id = "session"


@dataclass(frozen=True)
class Worker:
    """The worker's parts, against the script."""

    script: Script
    runner: Callable[[Agent], Runner]
    orchestrator: Orchestrator
    progress: Progress

    async def run(self, agent: Agent, claimed: messages.ClaimedTask | None = None) -> None:
        """Run one attempt of an agent."""
        await self.runner(agent).run(attempt_of(claimed or task()))

    def claims(self, agent: Agent) -> Claims:
        """What claims and runs tasks of an agent."""
        return Claims(
            orchestrator=self.orchestrator,
            runner=self.runner(agent),
            session=_AlwaysOpen(),  # type: ignore[arg-type]
            attempts=Attempts(),
            capacity=2,
        )


def task(task_id: str = "a") -> messages.ClaimedTask:
    """A claimed task of the one agent."""
    return messages.ClaimedTask(
        tenant="default",
        task_id=task_id,
        attempt=1,
        agent="agent",
        agent_version="1.0.0",
        agent_digest="d",
        input_json="{}",
        attempt_token=permit_pb2.Signed(key_id="token"),
    )


def attempt_of(claimed: messages.ClaimedTask) -> Attempt:
    """An attempt on the running loop."""
    return Attempt(claimed=claimed, token=claimed.attempt_token, loop=asyncio.get_running_loop())


@contextlib.asynccontextmanager
async def scripted_worker(folder: Path) -> AsyncIterator[Worker]:
    """The servers on a unix socket, and the worker's parts connected to them."""
    script = Script()
    script.claims_answered.set()
    server = grpc.aio.server()
    worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(
        _Orchestrator(script),  # type: ignore[abstract]
        server,
    )
    gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(
        _Gateway(script),  # type: ignore[abstract]
        server,
    )
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(
        _Registry(script),  # type: ignore[abstract]
        server,
    )
    server.add_insecure_port(f"unix:{folder}/peers.sock")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{folder}/peers.sock") as channel:
        orchestrator = Orchestrator(channel)
        progress = Progress(orchestrator.emit_progress)

        def runner(agent: Agent) -> Runner:
            sandboxed = SandboxedAgents(capacity=2)
            return Runner(
                orchestrator=orchestrator,
                progress=progress,
                gateway=Gateway(channel),
                registry=RegistryFeed(channel),
                trusted=_Trusted(agent),
                sandboxed=sandboxed,
            )

        yield Worker(script=script, runner=runner, orchestrator=orchestrator, progress=progress)
    await server.stop(0)
