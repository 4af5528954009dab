"""A gateway as it is served, with its real database and sandbox, and what tests need to speak to it."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa

from gateway_svc.config import GatewaySettings
from gateway_svc.server import build, make_sandbox
from interlock.audit.v1 import entry_pb2
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import (
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    tool_call_pb2,
)
from interlock.orchestrator.v1 import orchestrator_service_pb2
from interlock.registry.v1 import agent_pb2, tool_pb2
from interlock_sandbox import Sandbox
from svc_kit.database import Database
from svc_kit.identity import LocalIssuer, Role, TokenVerifier
from svc_kit.permits import issue_step_permit
from svc_kit.server import running_server
from svc_kit.signing import SigningKey
from svc_kit.status import RemoteError, from_rpc_error
from svc_kit.strict_json import canonical, digest
from tests.gateway.peers import Audit, Orchestrator, Registry, served
from tests.gateway.shared_sandbox import SandboxHost, SharedSandbox

WORKER = "worker-1"
AGENT, AGENT_VERSION = "analyst", "1.0.0"
TOOL_VERSION = "1.0.0"
ECHO = "def run(**arguments):\n    return arguments\n"
_PATIENCE_SECONDS = 10.0


@dataclass(kw_only=True)
class World:
    """One gateway, one tenant, one agent."""

    tenant: str
    folder: Path
    database_url: str
    issuer: LocalIssuer
    permit_key: SigningKey
    orchestrator: Orchestrator
    sandboxes: SandboxHost
    registry: Registry = field(default_factory=Registry)
    audit: Audit = field(default_factory=Audit)
    tools: dict[str, tool_pb2.ToolVersion] = field(default_factory=dict)
    agent_version: agent_pb2.AgentVersion = field(default_factory=agent_pb2.AgentVersion)
    internal: grpc.aio.Channel = field(init=False)
    public: grpc.aio.Channel = field(init=False)
    sandbox: Sandbox = field(init=False)

    # Publishing

    def publish_tool(
        self,
        name: str = "echo",
        source: str = ECHO,
        *,
        input_schema: Any = None,
        output_schema: Any = None,
        side_effect: tool_pb2.SideEffect.ValueType = tool_pb2.SIDE_EFFECT_AT_MOST_ONCE,
        bound: bool = True,
        connections: Sequence[str] = (),
        profile: str = "",
        **limits: Any,
    ) -> tool_pb2.ToolVersion:
        """A tool, and by default an agent version that lists it."""
        spec = tool_pb2.ToolSpec(
            input_schema_json=json.dumps(input_schema or {"type": "object"}),
            output_schema_json=json.dumps(output_schema) if output_schema is not None else "",
            python=tool_pb2.PythonTool(source=source, profile=profile),
            limits=tool_pb2.ToolLimits(**limits),
            side_effect=side_effect,
            connections=connections,
        )
        version = tool_pb2.ToolVersion(
            tool=name,
            version=TOOL_VERSION,
            digest=digest(spec.SerializeToString(deterministic=True)),
            spec=spec,
        )
        self.registry.publish(
            self.tenant,
            version,
            tool_pb2.Tool(name=name, latest_version=TOOL_VERSION, status=tool_pb2.STATUS_ACTIVE),
        )
        self.tools[name] = version
        if bound:
            self.publish_agent(*self.agent_version.spec.tools, binding(version))
        return version

    def publish_agent(self, *bindings: agent_pb2.ToolBinding) -> None:
        """The agent's one version anew; a registry would refuse that, and the gateway takes what it hears."""
        spec = agent_pb2.AgentSpec(tools=bindings)
        self.agent_version = agent_pb2.AgentVersion(
            agent=AGENT, version=AGENT_VERSION, digest=f"sha256:{'a' * 64}", spec=spec
        )
        self.registry.publish(
            self.tenant,
            self.agent_version,
            agent_pb2.Agent(name=AGENT, latest_version=AGENT_VERSION, status=tool_pb2.STATUS_ACTIVE),
        )

    # Tokens

    def token(self, role: Role, *, subject: str = "ada", tenant: str = "") -> tuple[tuple[str, str], ...]:
        """Metadata of a caller."""
        tenant = tenant or self.tenant
        pools = [(tenant, "default")] if role is Role.WORKER else []
        token = self.issuer.mint(subject, tenant, [role], 300, pools)
        return (("authorization", f"Bearer {token}"),)

    # Calling

    def permit(
        self, arguments: Any = None, *, key: SigningKey | None = None, **changes: Any
    ) -> permit_pb2.Signed:
        """A permit for one call of `echo`, unless `changes` say otherwise."""
        tool = self.tools.get(changes.get("tool", "echo"), tool_pb2.ToolVersion())
        fields: dict[str, Any] = {
            "tenant": self.tenant,
            "task_id": str(uuid.uuid4()),
            "step_key": "s1",
            "attempt": 1,
            "call_id": str(uuid.uuid4()),
            "agent": AGENT,
            "agent_version": AGENT_VERSION,
            "agent_digest": self.agent_version.digest,
            "tool": "echo",
            "tool_version": TOOL_VERSION,
            "tool_digest": tool.digest or f"sha256:{'0' * 64}",
            "argument_digest": digest(canonical(arguments or {})),
            "submitters": [permit_pb2.Principal(tenant=self.tenant, subject="ada", roles=["DEVELOPER"])],
            "worker_subject": WORKER,
            "expire_time": datetime.now(UTC) + timedelta(minutes=1),
        }
        permit = permit_pb2.StepPermit(**(fields | changes))
        self.stand(permit, orchestrator_service_pb2.ATTEMPT_STANDING_LIVE)
        return issue_step_permit(key or self.permit_key, permit)

    def stand(
        self,
        permit: permit_pb2.StepPermit,
        standing: orchestrator_service_pb2.AttemptStanding.ValueType,
    ) -> None:
        """The attempt of a permit stands so from now on."""
        self.orchestrator.stand(permit.tenant, permit.task_id, permit.attempt, standing)

    async def execute(
        self,
        permit: permit_pb2.Signed,
        arguments: Any = None,
        *,
        text: str | None = None,
        worker: str = WORKER,
        timeout: float = 20.0,
        tenant: str = "",
    ) -> gateway_service_pb2.ExecuteToolResponse:
        """ExecuteTool; raises RemoteError."""
        stub = gateway_service_pb2_grpc.GatewayServiceStub(self.internal)
        request = gateway_service_pb2.ExecuteToolRequest(
            permit=permit, arguments_json=json.dumps(arguments or {}) if text is None else text
        )
        metadata = self.token(Role.WORKER, subject=worker, tenant=tenant)
        try:
            return await stub.ExecuteTool(request, metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def refusal(self, permit: permit_pb2.Signed, arguments: Any = None, **options: Any) -> RemoteError:
        """The error that ExecuteTool answers."""
        try:
            answer = await self.execute(permit, arguments, **options)
        except RemoteError as error:
            return error
        raise AssertionError(f"the call was executed: {answer}")

    async def reason(self, permit: permit_pb2.Signed, arguments: Any = None, **options: Any) -> str:
        """The reason of the error that ExecuteTool answers; empty when it executed the call."""
        try:
            await self.execute(permit, arguments, **options)
        except RemoteError as error:
            return error.reason
        return ""

    async def get(self, permit: permit_pb2.Signed) -> tool_call_pb2.ToolCall:
        """The call of a permit as stored."""
        stub = gateway_service_pb2_grpc.GatewayServiceStub(self.public)
        request = gateway_service_pb2.GetToolCallRequest(call_id=claims(permit).call_id)
        answer = await stub.GetToolCall(request, metadata=self.token(Role.VIEWER))
        return answer.tool_call

    async def allow(
        self, policy_id: str = "all", cedar: str = "permit (principal, action, resource);"
    ) -> None:
        """Store a policy."""
        await self.allow_as(self.tenant, policy_id, cedar)

    async def allow_as(self, tenant: str, policy_id: str, cedar: str) -> None:
        """Store a policy of some tenant."""
        stub = policy_service_pb2_grpc.PolicyServiceStub(self.public)
        policy = policy_service_pb2.Policy(policy_id=policy_id, cedar=cedar)
        await stub.CreatePolicy(
            policy_service_pb2.CreatePolicyRequest(policy=policy),
            metadata=self.token(Role.ADMIN, tenant=tenant),
        )

    # Oracles

    @property
    def runs(self) -> int:
        """How many programs the sandbox has ended or is running."""
        status = self.sandbox.status()
        return status.calls + status.running

    def entries(self, permit: permit_pb2.Signed) -> list[entry_pb2.Event]:
        """What the audit log was told of a call, in order."""
        return [event for event in self.audit.events if event.call_id == claims(permit).call_id]

    async def told(self, permit: permit_pb2.Signed, count: int) -> list[entry_pb2.Event]:
        """The entries of a call, once there are so many."""
        await until(lambda: len(self.entries(permit)) >= count)
        return self.entries(permit)

    async def rows(self, permit: permit_pb2.Signed) -> list[Any]:
        """The rows of a call, past the gateway."""
        return await self.sql(
            "SELECT status, reason, owner FROM tool_call WHERE call_id = :call_id",
            call_id=uuid.UUID(claims(permit).call_id),
        )

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        """Rows of any statement."""
        database = Database(self.database_url, pool_size=1)
        try:
            async with database.transaction() as connection:
                return list((await connection.execute(sa.text(statement), values)).all())
        finally:
            await database.close()


def binding(version: tool_pb2.ToolVersion) -> agent_pb2.ToolBinding:
    return agent_pb2.ToolBinding(tool=version.tool, version=version.version, digest=version.digest)


def claims(permit: permit_pb2.Signed) -> permit_pb2.StepPermit:
    return permit_pb2.StepPermit.FromString(permit.payload)


def kinds(events: list[entry_pb2.Event]) -> list[tuple[str, str, str]]:
    """Type, status and reason of entries."""
    return [
        (entry_pb2.EntryType.Name(event.type).removeprefix("ENTRY_TYPE_"), event.status, event.reason)
        for event in events
    ]


def payload(event: entry_pb2.Event) -> Any:
    """The one content of an entry."""
    (part,) = event.payloads
    return json.loads(part.body)


async def once(wanted: str, reason: Callable[[], Awaitable[str]], *, instead_of: str) -> None:
    """Return when the reason is the wanted one; nothing but `instead_of` may come before."""

    async def came() -> bool:
        found = await reason()
        assert found in (wanted, instead_of)
        return found == wanted

    await until(came)


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return when it holds; fail when it does not in time."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        holds = condition()
        if isinstance(holds, Awaitable):
            holds = await holds
        if holds:
            return
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def neighbours(world: World) -> AsyncIterator[None]:
    """The peers of a world."""
    async with served(
        f"unix:{world.folder}/peers",
        orchestrator=world.orchestrator,
        registry=world.registry,
        audit=world.audit,
    ):
        yield


def settings_of(world: World, **changes: Any) -> GatewaySettings:
    """Settings of a gateway of this world; `slot` tells replicas apart."""
    token_file = world.folder / "token"
    token_file.write_text(world.issuer.mint("gateway", "system", [Role.SERVICE], 3600))
    fields: dict[str, Any] = {
        "public_address": "127.0.0.1:0",
        "internal_address": f"unix:{world.folder}/gateway",
        "database_url": world.database_url,
        "keys_dir": world.folder / "keys",
        "token_file": token_file,
        "orchestrator_address": f"unix:{world.folder}/peers",
        "registry_address": f"unix:{world.folder}/peers",
        "audit_address": f"unix:{world.folder}/peers",
        "slot": world.tenant,
        "sandbox_spares": 1,
        "drain_seconds": 2.0,
    }
    return GatewaySettings(**(fields | changes))


@asynccontextmanager
async def gateway(world: World, **changes: Any) -> AsyncIterator[World]:
    """Serve a gateway of this world; inside, the world speaks to it.

    It has a sandbox of its own only when `changes` say something of it.
    """
    settings = settings_of(world, **changes)
    own = any(name.startswith("sandbox_") for name in changes)
    world.sandbox = make_sandbox(settings) if own else SharedSandbox(world.sandboxes)
    served_gateway = build(settings, sandbox=world.sandbox)
    verifier = TokenVerifier([world.issuer.trusted()])
    # The channels outlast the server, so that calls under way when it stops are answered.
    async with (
        AsyncExitStack() as channels,
        running_server(
            served_gateway.services, settings, verifier=verifier, lifespan=served_gateway.lifespan
        ) as addresses,
    ):
        world.internal = await channels.enter_async_context(grpc.aio.insecure_channel(addresses.internal))
        world.public = await channels.enter_async_context(grpc.aio.insecure_channel(addresses.public))
        yield world
