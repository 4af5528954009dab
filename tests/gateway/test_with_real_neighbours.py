"""A gateway with the registry and the audit log as they are served."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from audit_svc.config import AuditSettings
from audit_svc.server import build as build_audit
from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, entry_pb2
from interlock.registry.v1 import (
    agent_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    tool_pb2,
    tool_service_pb2,
    tool_service_pb2_grpc,
)
from registry_svc.config import RegistrySettings
from registry_svc.server import build as build_registry
from svc_kit.identity import Role, TokenVerifier
from svc_kit.server import running_server
from tests.gateway.world import AGENT, AGENT_VERSION, TOOL_VERSION, World, claims, gateway, once, until
from tests.suite_fixtures import PostgresServer


@asynccontextmanager
async def audit_served(world: World, url: str) -> AsyncIterator[str]:
    settings = AuditSettings(
        database_url=url,
        keys_dir=world.folder / "audit-keys",
        origin="interlock.test/gateway",
        internal_address=f"unix:{world.folder}/audit",
        public_address="",
    )
    audit = build_audit(settings)
    verifier = TokenVerifier([world.issuer.trusted()])
    async with running_server(
        audit.services, settings, verifier=verifier, lifespan=audit.lifespan
    ) as addresses:
        yield addresses.internal


@asynccontextmanager
async def registry_served(world: World, url: str, audit_address: str) -> AsyncIterator[str]:
    token_file = world.folder / "registry-token"
    token_file.write_text(world.issuer.mint("registry", "system", [Role.SERVICE], 3600))
    settings = RegistrySettings(
        database_url=url,
        token_file=token_file,
        audit_address=audit_address,
        internal_address=f"unix:{world.folder}/registry",
        public_address="",
    )
    registry = build_registry(settings)
    verifier = TokenVerifier([world.issuer.trusted()])
    async with running_server(
        registry.services, settings, verifier=verifier, lifespan=registry.lifespan
    ) as addresses:
        yield addresses.internal


@pytest.fixture
async def real(closed_world: World, postgres_server: PostgresServer) -> AsyncIterator[World]:
    audit_database = await asyncio.to_thread(postgres_server.migrated_database, "audit")
    registry_database = await asyncio.to_thread(postgres_server.migrated_database, "registry")
    async with (
        audit_served(closed_world, audit_database.service_url) as audit,
        registry_served(closed_world, registry_database.service_url, audit) as registry,
        gateway(closed_world, audit_address=audit, registry_address=registry) as world,
    ):
        await publish(world, registry)
        yield world


async def publish(world: World, address: str) -> None:
    """The tool `echo` and an agent that lists it."""
    metadata = world.token(Role.SUPER_ADMIN)
    spec = tool_pb2.ToolSpec(
        description="Answers what it was asked.",
        input_schema_json=json.dumps({"type": "object"}),
        python=tool_pb2.PythonTool(source="def run(**arguments):\n    return arguments\n"),
        side_effect=tool_pb2.SIDE_EFFECT_PURE,
    )
    async with grpc.aio.insecure_channel(address) as channel:
        tools = tool_service_pb2_grpc.ToolServiceStub(channel)
        await tools.CreateTool(tool_service_pb2.CreateToolRequest(name="echo"), metadata=metadata)
        published = await tools.PublishToolVersion(
            tool_service_pb2.PublishToolVersionRequest(tool="echo", version=TOOL_VERSION, spec=spec),
            metadata=metadata,
        )
        agents = registry_service_pb2_grpc.RegistryServiceStub(channel)
        await agents.CreateAgent(registry_service_pb2.CreateAgentRequest(name=AGENT), metadata=metadata)
        plan = agent_pb2.PlanRuntime(steps=[agent_pb2.PlanStep(key="s1", tool="echo")])
        agent = await agents.PublishAgentVersion(
            registry_service_pb2.PublishAgentVersionRequest(
                agent=AGENT,
                version=AGENT_VERSION,
                spec=agent_pb2.AgentSpec(
                    description="Echoes.",
                    capabilities=["echo"],
                    tools=[agent_pb2.ToolBinding(tool="echo")],
                    plan=plan,
                ),
            ),
            metadata=metadata,
        )
    world.tools["echo"] = published.tool_version
    world.agent_version = agent.agent_version


async def trail(world: World, task_id: str) -> list[entry_pb2.Entry]:
    async with grpc.aio.insecure_channel(f"unix:{world.folder}/audit") as channel:
        answer = await audit_service_pb2_grpc.AuditServiceStub(channel).GetAuditTrail(
            audit_service_pb2.GetAuditTrailRequest(task_id=task_id, include_payloads=True),
            metadata=world.token(Role.DEVELOPER),
        )
    return list(answer.entries)


async def test_a_refusal_an_allow_and_a_call_stand_in_the_real_log(real: World) -> None:
    permit = real.permit({"a": 1})
    await once("POLICY_DENIED", lambda: real.reason(permit, {"a": 1}), instead_of="TOOL_NOT_BOUND")
    await real.allow()
    answer = await real.execute(permit, {"a": 1})
    assert answer.result_json == '{"a":1}'
    task_id = claims(permit).task_id
    entries: list[entry_pb2.Entry] = []

    async def complete() -> bool:
        entries[:] = await trail(real, task_id)
        return any(json.loads(entry.leaf)["status"] == "COMPLETED" for entry in entries)

    await until(complete)
    leaves = [json.loads(entry.leaf) for entry in entries]
    told = [(leaf["type"], leaf["status"]) for leaf in leaves if leaf.get("reason") != "TOOL_NOT_BOUND"]
    assert sorted(told) == sorted(
        [("TOOL_CALL", "REFUSED"), ("TOOL_CALL", "RUNNING"), ("TOOL_RESULT", "COMPLETED")]
    )
    bodies = {
        (leaf["status"], part.part): json.loads(part.body)
        for leaf, entry in zip(leaves, entries, strict=True)
        for part in entry.payloads
    }
    assert bodies["RUNNING", "arguments"] == {"a": 1}
    assert bodies["REFUSED", "arguments"] == {"a": 1}
    assert bodies["COMPLETED", "result"] == {"a": 1}
    call = await real.get(permit)
    running = next(entry for entry, leaf in zip(entries, leaves, strict=True) if leaf["status"] == "RUNNING")
    assert call.audit_index == running.index
