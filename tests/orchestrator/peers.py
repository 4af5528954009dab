"""The services beside the orchestrator, as small real gRPC servers on one unix socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, entry_pb2
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc, tool_call_pb2
from interlock.registry.v1 import (
    agent_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    tool_pb2,
)
from svc_kit.signing import RECEIPT_PURPOSE, SigningKey
from svc_kit.strict_json import canonical, digest

TENANT = "default"
OTHER_TENANT = "acme"
AGENT = "csv-analyst"
TOOL = "read_csv"
UNBOUND_TOOL = "delete_everything"
INPUT_SCHEMA = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "rows": {"type": "integer", "minimum": 1}},
    "required": ["path"],
    "additionalProperties": False,
}


def spec(**changes: Any) -> agent_pb2.AgentSpec:
    """A plan of one tool, bound to version 1.0.0."""
    made = agent_pb2.AgentSpec(
        description="Reads a table.",
        tools=[agent_pb2.ToolBinding(tool=TOOL, version="1.0.0", digest="sha256:" + "a" * 64)],
        plan=agent_pb2.PlanRuntime(steps=[agent_pb2.PlanStep(key="read", tool=TOOL)]),
        **changes,
    )
    if not made.HasField("retry"):
        made.retry.max_failures = 3
        made.retry.initial_interval.FromMilliseconds(50)
    return made


class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    """Holds what a test publishes; the feed sees it, unless it is published in secret."""

    def __init__(self) -> None:
        self.agents: dict[tuple[str, str], agent_pb2.Agent] = {}
        self.versions: dict[tuple[str, str, str], agent_pb2.AgentVersion] = {}
        self._changes: list[registry_service_pb2.WatchRegistryResponse] = []
        self._changed = asyncio.Event()

    def publish(
        self,
        name: str,
        version: str = "1.0.0",
        *,
        tenant: str = TENANT,
        content: agent_pb2.AgentSpec | None = None,
        announced: bool = True,
    ) -> agent_pb2.AgentVersion:
        content = content or spec()
        made = agent_pb2.AgentVersion(
            agent=name, version=version, digest=digest(content.SerializeToString()), spec=content
        )
        agent = agent_pb2.Agent(name=name, latest_version=version, status=tool_pb2.STATUS_ACTIVE)
        self.agents[tenant, name] = agent
        self.versions[tenant, name, version] = made
        if announced:
            self._announce(registry_service_pb2.WatchRegistryResponse(tenant=tenant, agent_version=made))
            self._announce(registry_service_pb2.WatchRegistryResponse(tenant=tenant, agent=agent))
        return made

    def disable(self, name: str, *, tenant: str = TENANT) -> None:
        agent = self.agents[tenant, name]
        agent.status = tool_pb2.STATUS_DISABLED
        self._announce(registry_service_pb2.WatchRegistryResponse(tenant=tenant, agent=agent))

    def _announce(self, change: registry_service_pb2.WatchRegistryResponse) -> None:
        self._changes.append(
            registry_service_pb2.WatchRegistryResponse.FromString(change.SerializeToString())
        )
        self._changed.set()

    async def GetAgent(self, request: Any, context: Any) -> registry_service_pb2.GetAgentResponse:
        found = self.agents.get((_tenant(context), request.name))
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such agent")
        return registry_service_pb2.GetAgentResponse(agent=found)

    async def GetAgentVersion(
        self, request: Any, context: Any
    ) -> registry_service_pb2.GetAgentVersionResponse:
        found = self.versions.get((_tenant(context), request.agent, request.version))
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such version")
        return registry_service_pb2.GetAgentVersionResponse(agent_version=found)

    async def WatchRegistry(
        self, request: Any, context: Any
    ) -> AsyncIterator[registry_service_pb2.WatchRegistryResponse]:
        sent = 0
        while True:
            for change in self._changes[sent:]:
                yield change
                sent += 1
            yield registry_service_pb2.WatchRegistryResponse(bookmark=registry_service_pb2.Bookmark())
            self._changed.clear()
            try:
                async with asyncio.timeout(1.0):
                    await self._changed.wait()
            except TimeoutError:
                pass


class Gateway(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Signs receipts without executing anything."""

    def __init__(self) -> None:
        self.key = SigningKey(Ed25519PrivateKey.generate(), "receipt")

    def receipt(
        self,
        permit: permit_pb2.StepPermit,
        outcome: Any,
        *,
        is_error: bool = False,
        usage: tool_call_pb2.ModelUsage | None = None,
    ) -> tuple[str, permit_pb2.Signed]:
        """The outcome's text, and the receipt over it."""
        text = outcome if is_error else canonical(outcome).decode()
        receipt = tool_call_pb2.Receipt(
            tenant=permit.tenant,
            call_id=permit.call_id,
            task_id=permit.task_id,
            step_key=permit.step_key,
            tool_digest=permit.tool_digest,
            argument_digest=permit.argument_digest,
            result_digest=digest(text.encode()),
            is_error=is_error,
            usage=usage,
        )
        return text, self.key.sign(RECEIPT_PURPOSE, receipt.SerializeToString())

    async def GetPublicKeys(self, request: Any, context: Any) -> gateway_service_pb2.GetPublicKeysResponse:
        return gateway_service_pb2.GetPublicKeysResponse(keys=[self.key.public()])


class Audit(audit_service_pb2_grpc.AuditServiceServicer):
    """Keeps every event once, by its id."""

    def __init__(self) -> None:
        self.events: dict[str, entry_pb2.Event] = {}
        self.arrived = asyncio.Condition()
        self.refusing = False

    async def AppendStream(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[audit_service_pb2.AppendStreamResponse]:
        async for batch in request_iterator:
            if self.refusing:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the log is away")
            async with self.arrived:
                for event in batch.events:
                    known = self.events.setdefault(event.event_id, event)
                    assert known == event, "a repeated event must be the same"
                self.arrived.notify_all()
            answers = [audit_service_pb2.AppendResponse(index=i) for i in range(len(batch.events))]
            yield audit_service_pb2.AppendStreamResponse(appended=answers)

    async def of_task(self, task_id: str, count: int) -> list[entry_pb2.Event]:
        """The first events of the task in the order of the producer's numbers, once there are so many."""

        def found() -> list[entry_pb2.Event]:
            mine = [event for event in self.events.values() if event.task_id == task_id]
            return sorted(mine, key=lambda event: event.producer_sequence)

        async with asyncio.timeout(15), self.arrived:
            await self.arrived.wait_for(lambda: len(found()) >= count)
        return found()


def payload(event: entry_pb2.Event, part: str) -> Any:
    """One part of an event as JSON."""
    (body,) = [each.body for each in event.payloads if each.part == part]
    return json.loads(body)


class Peers:
    """The three of them behind one address."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:{folder}/peers.sock"
        # Abstract to the checker alone: they serve what the orchestrator asks, no more.
        self.registry = Registry()  # type: ignore[abstract]
        self.gateway = Gateway()  # type: ignore[abstract]
        self.audit = Audit()  # type: ignore[abstract]

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Peers"]:
        server = grpc.aio.server()
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(self.gateway, server)
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(self.audit, server)
        server.add_insecure_port(self.address)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(0)


def _tenant(context: Any) -> str:
    return str(dict(context.invocation_metadata() or ()).get("x-interlock-tenant", TENANT))
