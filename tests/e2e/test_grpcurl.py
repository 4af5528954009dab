"""What an operator types: grpcurl against the public doors, with nothing but an address and a token."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from interlock.registry.v1 import registry_service_pb2
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO

GRPCURL = Path(sys.executable).with_name("grpcurl")
pytestmark = pytest.mark.skipif(
    not GRPCURL.exists(), reason="grpcurl is not installed here: its package ships for x86_64 alone"
)


async def grpcurl(*arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    process = await asyncio.create_subprocess_exec(
        GRPCURL,
        "-plaintext",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def call(suite: RunningSuite, service: str, method: str, request: Any, *roles: str) -> tuple[int, str]:
    """Call a method with a token of these roles."""
    authorization = f"authorization: Bearer {suite.token(*roles)}"
    return await grpcurl("-H", authorization, "-d", json.dumps(request), suite.door(service), method)


@pytest.mark.parametrize(
    ("service", "listed"),
    [
        ("orchestrator", "interlock.orchestrator.v1.OrchestratorService"),
        ("registry", "interlock.registry.v1.RegistryService"),
        ("gateway", "interlock.gateway.v1.GatewayService"),
        ("audit", "interlock.audit.v1.AuditService"),
    ],
)
async def test_services_are_listed_and_described_without_a_token(
    suite: RunningSuite, service: str, listed: str
) -> None:
    address = suite.door(service)
    code, output = await grpcurl(address, "list")
    assert code == 0, output
    assert {listed, "grpc.health.v1.Health"} <= set(output.split())
    code, output = await grpcurl(address, "describe", listed)
    assert code == 0, output
    assert f"{listed} is a service:" in output
    code, output = await grpcurl(
        "-d", json.dumps({"service": listed}), address, "grpc.health.v1.Health/Check"
    )
    assert (code, json.loads(output)) == (0, {"status": "SERVING"})


async def test_each_service_answers_a_call_with_a_token(suite: RunningSuite) -> None:
    method = "interlock.orchestrator.v1.OrchestratorService/SubmitTask"
    code, output = await call(
        suite, "orchestrator", method, {"agent": ECHO.name, "input": {"value": 1}}, "SUBMITTER"
    )
    assert code == 0, output
    assert json.loads(output)["task"]["state"] == "TASK_STATE_SUBMITTED"
    method = "interlock.registry.v1.RegistryService/GetAgent"
    code, output = await call(suite, "registry", method, {"name": ECHO.name}, "VIEWER")
    assert code == 0, output
    # Releases of grpcurl spell field names in two ways; the contract reads both.
    found = json_format.Parse(output, registry_service_pb2.GetAgentResponse())
    assert found.agent.latest_version == "1.0.0"
    method = "interlock.gateway.v1.GatewayService/GetSandboxStatus"
    code, output = await call(suite, "gateway", method, {}, "VIEWER")
    assert code == 0
    assert json.loads(output)["level"] in {"STANDARD", "FULL"}
    method = "interlock.audit.v1.AuditService/GetCheckpoint"
    code, output = await call(suite, "audit", method, {}, "AUDITOR")
    assert code == 0, output
    assert json.loads(output)["checkpoint"]["note"].startswith("interlock.local/")


async def test_a_refusal_is_readable(suite: RunningSuite) -> None:
    method = "interlock.orchestrator.v1.OrchestratorService/SubmitTask"
    code, output = await call(suite, "orchestrator", method, {"agent": ECHO.name}, "VIEWER")
    assert code != 0
    for word in ("PermissionDenied", "ROLE_REQUIRED", "SUBMITTER"):
        assert word in output
