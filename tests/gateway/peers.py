"""The gateway's neighbours as small real gRPC servers, which a test can make fail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, entry_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, orchestrator_service_pb2_grpc
from interlock.registry.v1 import (
    agent_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    tool_pb2,
    tool_service_pb2,
    tool_service_pb2_grpc,
)
from svc_kit.signing import SigningKey

Change = agent_pb2.Agent | agent_pb2.AgentVersion | tool_pb2.Tool | tool_pb2.ToolVersion
_FIELDS = {
    agent_pb2.Agent: "agent",
    agent_pb2.AgentVersion: "agent_version",
    tool_pb2.Tool: "tool",
    tool_pb2.ToolVersion: "tool_version",
}


class Orchestrator(orchestrator_service_pb2_grpc.OrchestratorServiceServicer):
    """Publishes the keys of permits, and which attempts are live; falls silent when told to."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.silent = False
        self.refuses_inputs = False
        self.provided: list[orchestrator_service_pb2.ProvideInputRequest] = []
        self.watchers = 0
        self._attempts: dict[str, orchestrator_service_pb2.AttemptChange] = {}
        self._changes: list[orchestrator_service_pb2.AttemptChange] = []
        self._changed = asyncio.Event()

    def stand(
        self,
        tenant: str,
        task_id: str,
        attempt: int,
        standing: orchestrator_service_pb2.AttemptStanding.ValueType,
    ) -> None:
        """The last attempt of a task stands so from now on."""
        change = orchestrator_service_pb2.AttemptChange(
            tenant=tenant, task_id=task_id, attempt=attempt, standing=standing
        )
        self._attempts[task_id] = change
        self._changes.append(change)
        self._changed.set()
        self._changed = asyncio.Event()

    async def WatchAttempts(
        self, request: orchestrator_service_pb2.WatchAttemptsRequest, context: Any
    ) -> AsyncIterator[orchestrator_service_pb2.WatchAttemptsResponse]:
        self.watchers += 1
        try:
            async for message in self._watch(context, request.task_ids):
                yield message
        finally:
            self.watchers -= 1

    async def _watch(
        self, context: Any, asked: Sequence[str]
    ) -> AsyncIterator[orchestrator_service_pb2.WatchAttemptsResponse]:
        if self.silent:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "silent")
        sent = len(self._changes)
        live = [
            change
            for change in self._attempts.values()
            if change.standing
            in (
                orchestrator_service_pb2.ATTEMPT_STANDING_LIVE,
                orchestrator_service_pb2.ATTEMPT_STANDING_CANCELING,
            )
            or change.task_id in asked
        ]
        yield orchestrator_service_pb2.WatchAttemptsResponse(changes=live)
        while True:
            changed = self._changed
            news, sent = self._changes[sent:], len(self._changes)
            yield orchestrator_service_pb2.WatchAttemptsResponse(changes=news, up_to_date=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await changed.wait()
            if self.silent:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "silent")

    async def ProvideInput(
        self, request: orchestrator_service_pb2.ProvideInputRequest, context: Any
    ) -> orchestrator_service_pb2.ProvideInputResponse:
        if self.refuses_inputs:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        self.provided.append(request)
        return orchestrator_service_pb2.ProvideInputResponse()

    async def GetPublicKeys(
        self, request: orchestrator_service_pb2.GetPublicKeysRequest, context: Any
    ) -> orchestrator_service_pb2.GetPublicKeysResponse:
        return orchestrator_service_pb2.GetPublicKeysResponse(keys=[key.public() for key in self.keys])


class Registry(registry_service_pb2_grpc.RegistryServiceServicer, tool_service_pb2_grpc.ToolServiceServicer):
    """Streams what a test published, and falls silent, or behind, when told to."""

    def __init__(self) -> None:
        self._log: list[tuple[str, Change]] = []
        self._grown = asyncio.Event()
        self.silent = False
        self.behind = False

    def publish(self, tenant: str, *changes: Change) -> None:
        self._log += [(tenant, change) for change in changes]
        self._grown.set()
        self._grown = asyncio.Event()

    async def GetAgent(
        self, request: registry_service_pb2.GetAgentRequest, context: Any
    ) -> registry_service_pb2.GetAgentResponse:
        agent = await self._find(context, agent_pb2.Agent, name=request.name)
        return registry_service_pb2.GetAgentResponse(agent=agent)

    async def GetAgentVersion(
        self, request: registry_service_pb2.GetAgentVersionRequest, context: Any
    ) -> registry_service_pb2.GetAgentVersionResponse:
        found = await self._find(
            context, agent_pb2.AgentVersion, agent=request.agent, version=request.version
        )
        return registry_service_pb2.GetAgentVersionResponse(agent_version=found)

    async def GetTool(
        self, request: tool_service_pb2.GetToolRequest, context: Any
    ) -> tool_service_pb2.GetToolResponse:
        tool = await self._find(context, tool_pb2.Tool, name=request.name)
        return tool_service_pb2.GetToolResponse(tool=tool)

    async def GetToolVersion(
        self, request: tool_service_pb2.GetToolVersionRequest, context: Any
    ) -> tool_service_pb2.GetToolVersionResponse:
        found = await self._find(context, tool_pb2.ToolVersion, tool=request.tool, version=request.version)
        return tool_service_pb2.GetToolVersionResponse(tool_version=found)

    async def _find(self, context: Any, kind: type[Change], **wanted: str) -> Any:
        if self.silent:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "silent")
        tenant = dict(context.invocation_metadata())["x-interlock-tenant"]
        for owner, change in reversed(self._log):
            matches = all(getattr(change, name, None) == value for name, value in wanted.items())
            if owner == tenant and type(change) is kind and matches:
                return change
        return await context.abort(grpc.StatusCode.NOT_FOUND, "not there")

    async def WatchRegistry(
        self, request: registry_service_pb2.WatchRegistryRequest, context: Any
    ) -> AsyncIterator[registry_service_pb2.WatchRegistryResponse]:
        sent = 0
        while True:
            grown = self._grown
            for tenant, change in [] if self.behind else self._log[sent:]:
                sent += 1
                fields: dict[str, Any] = {_FIELDS[type(change)]: change}
                yield registry_service_pb2.WatchRegistryResponse(position=sent, tenant=tenant, **fields)
            if self.silent:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "silent")
            bookmark = registry_service_pb2.Bookmark()
            yield registry_service_pb2.WatchRegistryResponse(position=sent, bookmark=bookmark)
            try:
                async with asyncio.timeout(0.2):
                    await grown.wait()
            except TimeoutError:
                continue


class Audit(audit_service_pb2_grpc.AuditServiceServicer):
    """Keeps what was appended, one entry an event id."""

    def __init__(self) -> None:
        self.events: list[entry_pb2.Event] = []
        self.refuses = False
        self.refuses_status = ""  # the one of what it does not take
        self.hangs = False
        self.takes_silently = False  # records, and does not say so
        self.refuses_batches = False
        self.repeats = 0  # how often a known event came again
        self.reused = False  # whether one came with other content

    async def Append(
        self, request: audit_service_pb2.AppendRequest, context: Any
    ) -> audit_service_pb2.AppendResponse:
        await self._misbehave(context)
        if self.refuses_status and request.event.status == self.refuses_status:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        answer = await self._append(request.event, context)
        if self.takes_silently:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "lost on the way back")
        return answer

    async def AppendStream(
        self, request_iterator: AsyncIterator[audit_service_pb2.AppendStreamRequest], context: Any
    ) -> AsyncIterator[audit_service_pb2.AppendStreamResponse]:
        async for batch in request_iterator:
            await self._misbehave(context)
            if self.refuses_batches:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            yield audit_service_pb2.AppendStreamResponse(
                appended=[await self._append(event, context) for event in batch.events]
            )

    async def _misbehave(self, context: Any) -> None:
        while self.hangs:  # noqa: ASYNC110 - a test sets it
            await asyncio.sleep(0.01)
        if self.refuses:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")

    async def _append(self, event: entry_pb2.Event, context: Any) -> audit_service_pb2.AppendResponse:
        known = [each.event_id for each in self.events]
        if event.event_id in known:
            index = known.index(event.event_id)
            self.repeats += 1
            if event != self.events[index]:
                self.reused = True
                await context.abort(grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_REUSED")
            return audit_service_pb2.AppendResponse(index=index, tree_size=len(known), already_existed=True)
        self.events.append(event)
        return audit_service_pb2.AppendResponse(index=len(known), tree_size=len(known) + 1)


@asynccontextmanager
async def served(
    address: str, *, orchestrator: Orchestrator, registry: Registry, audit: Audit
) -> AsyncIterator[str]:
    """All three on one door."""
    server = grpc.aio.server()
    orchestrator_service_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    tool_service_pb2_grpc.add_ToolServiceServicer_to_server(registry, server)
    audit_service_pb2_grpc.add_AuditServiceServicer_to_server(audit, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)
