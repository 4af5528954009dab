"""What the client sends along, repeats and raises."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from interlock.audit.v1 import audit_service_pb2, erasure_service_pb2, retention_service_pb2
from interlock.client import Client, InterlockError
from interlock.client.safe_methods import SAFE_METHODS
from interlock.common.channel import channel
from interlock.common.v1 import options_pb2
from interlock.gateway.v1 import (
    approval_service_pb2,
    connection_service_pb2,
    gateway_service_pb2,
    limit_service_pb2,
    policy_service_pb2,
)
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, queue_service_pb2
from interlock.registry.v1 import registry_service_pb2, tool_service_pb2
from tests.client.conftest import Orchestrator

SUBMIT = "/interlock.orchestrator.v1.OrchestratorService/SubmitTask"


@pytest.fixture
async def client(orchestrator: Orchestrator) -> AsyncIterator[Client]:
    async with Client({"orchestrator": orchestrator.address}, lambda: "secret") as made:
        yield made


async def test_every_call_carries_the_token(orchestrator: Orchestrator, client: Client) -> None:
    await client.get("x")
    assert orchestrator.metadata[0]["authorization"] == "Bearer secret"


async def test_a_submit_over_a_lost_answer_is_repeated_under_one_request_id(
    orchestrator: Orchestrator, client: Client
) -> None:
    orchestrator.failures = 2
    task = await client.submit("agent", "{}")
    assert task.agent == "agent"
    ids = {request.request_id for request in orchestrator.requests}
    assert len(orchestrator.requests) == 3 and len(ids) == 1
    assert uuid.UUID(ids.pop()).version == 4


async def test_a_submit_without_a_request_id_is_never_repeated(orchestrator: Orchestrator) -> None:
    orchestrator.failures = 1
    async with channel(orchestrator.address, safe_methods=[SUBMIT]) as made:
        stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(made)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.SubmitTask(messages.SubmitTaskRequest(agent="a"))
        assert len(orchestrator.requests) == 1
        await stub.SubmitTask(messages.SubmitTaskRequest(agent="a", request_id="r"))


async def test_a_failed_call_says_what_the_server_said(client: Client) -> None:
    with pytest.raises(InterlockError) as caught:
        await client.cancel("x")
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.reason == "" and caught.value.violations == ()


async def test_nobody_at_home_is_unavailable_at_the_deadline(tmp_path: Path) -> None:
    async with Client({"orchestrator": f"unix:{tmp_path}/nobody"}, lambda: "t") as client:
        with pytest.raises(InterlockError) as caught:
            await client.call(
                lambda request: client.tasks.GetTask(request, timeout=0.3), messages.GetTaskRequest()
            )
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_every_safe_method_is_a_public_one_with_a_single_answer() -> None:
    public = {
        f"/{service.full_name}/{method.name}"
        for module in (
            messages,
            queue_service_pb2,
            registry_service_pb2,
            tool_service_pb2,
            approval_service_pb2,
            gateway_service_pb2,
            policy_service_pb2,
            connection_service_pb2,
            limit_service_pb2,
            audit_service_pb2,
            erasure_service_pb2,
            retention_service_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.GetOptions().Extensions[options_pb2.door] == options_pb2.DOOR_PUBLIC
        and not method.server_streaming
        and not method.client_streaming
    }
    assert public >= SAFE_METHODS
    # Repeating these would find its own first try in the way, or undo what came between.
    assert {name.rpartition("/")[2] for name in public - SAFE_METHODS} == {
        "CreateAgent",
        "CreateConnection",
        "CreatePolicy",
        "CreateQueue",
        "CreateTool",
        "DeleteConnection",
        "DeletePolicy",
        "DeleteQueue",
        "EndWorker",
        "PlaceHold",
        "RotateKey",
        "SetAgentStatus",
        "SetCallLimit",
        "SetConnectionCredential",
        "SetRetentionPolicy",
        "SetToolStatus",
        "UpdateConnection",
        "UpdatePolicy",
        "UpdateQueue",
    }


async def test_whoever_is_cancelled_in_a_call_ends_as_cancelled_whenever_that_happens(
    orchestrator: Orchestrator, client: Client
) -> None:
    """The library may tell of it as of an error of the call, which nobody may take for an answer."""
    outcomes = set()
    for number in range(100):

        async def work() -> str:
            try:
                await client.get("x")
            except InterlockError as error:
                return error.code.name
            return "done"

        task = asyncio.create_task(work())
        await asyncio.sleep(number / 100 * 0.006)
        was_done = task.done()
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if not was_done:
            outcomes.add(outcome if isinstance(outcome, str) else type(outcome).__name__)
    assert outcomes <= {"CancelledError", "done"}
    assert "CancelledError" in outcomes
