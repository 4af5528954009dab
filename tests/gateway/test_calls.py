"""A call from its permit to its receipt, once."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import (
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    tool_call_pb2,
)
from svc_kit.identity import Role
from svc_kit.signing import RECEIPT_PURPOSE, KeyRing
from svc_kit.status import RemoteError, from_rpc_error
from svc_kit.strict_json import digest
from tests.gateway.world import WORKER, World, claims, gateway, kinds, payload, until

SLOW = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"


@pytest.fixture
async def allowing(closed_world: World) -> AsyncIterator[World]:
    closed_world.publish_tool()
    closed_world.publish_tool("slow", SLOW)
    closed_world.publish_tool("fails", "def run():\n    raise ValueError('no such row \\x00 \\ud800')\n")
    async with gateway(closed_world) as world:
        await world.allow()
        yield world


async def receipt_of(world: World, signed: permit_pb2.Signed) -> tool_call_pb2.Receipt:
    """The receipt, verified by the published key."""
    stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
    keys = await stub.GetPublicKeys(
        gateway_service_pb2.GetPublicKeysRequest(), metadata=world.token(Role.SUBMITTER)
    )
    return tool_call_pb2.Receipt.FromString(KeyRing(keys.keys).verify(RECEIPT_PURPOSE, signed))


async def test_a_call_answers_its_result_and_a_receipt_that_the_published_key_verifies(
    allowing: World,
) -> None:
    arguments = {"n": 2**53 + 1, "s": "ä"}
    permit = allowing.permit(arguments)
    answer = await allowing.execute(permit, arguments)
    assert answer.result_json == '{"n":9007199254740993,"s":"ä"}'
    assert not answer.is_error
    asked, receipt = claims(permit), await receipt_of(allowing, answer.receipt)
    assert (receipt.tenant, receipt.call_id, receipt.task_id) == (asked.tenant, asked.call_id, asked.task_id)
    assert receipt.argument_digest == asked.argument_digest
    assert receipt.tool_digest == asked.tool_digest
    assert receipt.result_digest == digest(answer.result_json.encode())
    assert receipt.isolation == allowing.sandbox.status().level.name
    assert allowing.audit.events[receipt.audit_index].call_id == asked.call_id


async def test_the_log_holds_the_call_with_its_arguments_and_then_its_result(allowing: World) -> None:
    permit = allowing.permit({"a": 1})
    await allowing.execute(permit, {"a": 1})
    call, result = await allowing.told(permit, 2)
    assert kinds([call, result]) == [("TOOL_CALL", "RUNNING", ""), ("TOOL_RESULT", "COMPLETED", "")]
    assert call.payloads[0].part == "arguments"
    assert payload(call) == {"a": 1}
    assert result.payloads[0].part == "result"
    assert payload(result) == {"a": 1}
    assert (call.actor, call.agent, call.tool, call.step_key) == (WORKER, "analyst", "echo", "s1")
    assert result.attributes["isolation"] == allowing.sandbox.status().level.name


async def test_an_error_of_the_tool_is_an_answer_and_not_a_failure_of_the_call(allowing: World) -> None:
    permit = allowing.permit(tool="fails")
    answer = await allowing.execute(permit)
    assert answer.is_error
    assert answer.error_class == "ValueError"
    assert answer.error_message.startswith("no such row")
    assert "\0" not in answer.error_message
    assert answer.result_json == ""
    receipt = await receipt_of(allowing, answer.receipt)
    assert receipt.is_error
    assert receipt.result_digest == digest(answer.error_message.encode())
    events = await allowing.told(permit, 2)
    assert kinds(events)[1] == ("TOOL_RESULT", "FAILED", "TOOL_ERROR")
    assert payload(events[1])["class"] == "ValueError"
    again = await allowing.execute(permit)
    assert (again.is_error, again.error_message, again.replayed) == (True, answer.error_message, True)


async def test_the_same_call_id_again_answers_the_stored_outcome_without_running_the_tool(
    allowing: World,
) -> None:
    permit = allowing.permit({"a": 1})
    first = await allowing.execute(permit, {"a": 1})
    later = allowing.permit(
        {"a": 1}, call_id=claims(permit).call_id, task_id=claims(permit).task_id, attempt=2
    )
    second = await allowing.execute(later, {"a": 1})
    assert (first.replayed, second.replayed) == (False, True)
    assert (second.result_json, second.receipt) == (first.result_json, first.receipt)
    assert allowing.runs == 1
    assert len(await allowing.told(permit, 2)) == 2


async def test_callers_of_the_same_running_call_join_it(allowing: World) -> None:
    arguments = {"seconds": 0.3}
    permit = allowing.permit(arguments, tool="slow")
    answers = await asyncio.gather(*(allowing.execute(permit, arguments) for _ in range(8)))
    assert {answer.result_json for answer in answers} == {"0.3"}
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 7
    assert allowing.runs == 1
    assert len(await allowing.told(permit, 2)) == 2


async def test_the_same_call_id_with_other_arguments_is_refused_while_it_runs_and_after(
    allowing: World,
) -> None:
    permit = allowing.permit({"seconds": 0.5}, tool="slow")
    running = asyncio.ensure_future(allowing.execute(permit, {"seconds": 0.5}))
    await until(lambda: allowing.runs == 1)
    other = allowing.permit({"seconds": 0}, tool="slow", call_id=claims(permit).call_id)
    assert (await allowing.refusal(other, {"seconds": 0})).reason == "PERMIT_MISMATCH"
    assert (await running).result_json == "0.5"
    assert (await allowing.refusal(other, {"seconds": 0})).reason == "PERMIT_MISMATCH"
    assert (await allowing.get(permit)).status == tool_call_pb2.TOOL_CALL_STATUS_COMPLETED
    assert allowing.runs == 1


async def test_a_caller_of_another_replica_waits_for_the_running_call(allowing: World) -> None:
    arguments = {"seconds": 0.5}
    permit = allowing.permit(arguments, tool="slow")
    running = asyncio.ensure_future(allowing.execute(permit, arguments))
    await until(lambda: allowing.runs == 1)
    first = allowing.internal, allowing.public, allowing.sandbox
    async with gateway(allowing, slot="replica", internal_address=f"unix:{allowing.folder}/replica"):
        answer = await allowing.execute(permit, arguments)
        assert (answer.result_json, answer.replayed) == ("0.5", True)
        assert allowing.runs == 0
    allowing.internal, allowing.public, allowing.sandbox = first
    assert (await running).result_json == "0.5"


async def test_a_caller_that_goes_away_leaves_a_call_that_ends_and_is_stored(allowing: World) -> None:
    arguments = {"seconds": 0.4}
    permit = allowing.permit(arguments, tool="slow")
    stub = gateway_service_pb2_grpc.GatewayServiceStub(allowing.internal)
    request = gateway_service_pb2.ExecuteToolRequest(permit=permit, arguments_json='{"seconds": 0.4}')
    call = stub.ExecuteTool(request, metadata=allowing.token(Role.WORKER, subject=WORKER), timeout=20)
    await until(lambda: allowing.runs == 1)
    assert call.cancel()
    events = await allowing.told(permit, 2)
    assert kinds(events)[1] == ("TOOL_RESULT", "COMPLETED", "")
    answer = await allowing.execute(permit, arguments)
    assert (answer.result_json, answer.replayed) == ("0.4", True)
    assert allowing.runs == 1


async def test_a_tool_is_ended_at_its_callers_deadline(allowing: World) -> None:
    arguments = {"seconds": 4}
    permit = allowing.permit(arguments, tool="slow")
    await allowing.refusal(permit, arguments, timeout=0.5)
    events = await allowing.told(permit, 2)
    assert kinds(events)[1] == ("TOOL_RESULT", "FAILED", "TOOL_TIMEOUT")
    taken = events[1].event_time.ToNanoseconds() - events[0].event_time.ToNanoseconds()
    assert taken < 1e9


async def test_a_stopping_gateway_lets_running_calls_end(closed_world: World) -> None:
    closed_world.publish_tool("slow", SLOW)
    arguments = {"seconds": 0.5}
    async with gateway(closed_world, drain_seconds=20.0) as world:
        await world.allow()
        permit = world.permit(arguments, tool="slow")
        running = asyncio.ensure_future(world.execute(permit, arguments))
        await until(lambda: world.runs == 1)
    assert (await running).result_json == "0.5"
    assert await closed_world.sql("SELECT 1 FROM gateway WHERE slot = :slot", slot=world.tenant) == []


async def test_calls_beyond_what_may_run_wait_and_beyond_what_may_wait_are_refused(
    closed_world: World,
) -> None:
    closed_world.publish_tool("slow", SLOW)
    arguments = {"seconds": 0.4}
    async with gateway(closed_world, max_running=1, max_waiting=1) as world:
        await world.allow()
        permits = [world.permit(arguments, tool="slow") for _ in range(3)]
        first = asyncio.ensure_future(world.execute(permits[0], arguments))
        await until(lambda: world.runs == 1)
        others = await asyncio.gather(
            *(world.execute(permit, arguments) for permit in permits[1:]), return_exceptions=True
        )
        (error,) = [each for each in others if isinstance(each, RemoteError)]
        assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert error.retry_after is not None
        assert error.metadata["execution_state"] == "NOT_STARTED"
        assert (await first).result_json == "0.4"
        assert world.runs == 2
        stored = [len(await world.rows(permit)) for permit in permits]
        assert sorted(stored) == [0, 1, 1]


async def test_callers_that_go_away_make_no_room_for_more_calls(closed_world: World) -> None:
    closed_world.publish_tool("slow", SLOW)
    arguments = {"seconds": 2}
    async with gateway(closed_world, max_running=1, max_waiting=1) as world:
        await world.allow()
        stub = gateway_service_pb2_grpc.GatewayServiceStub(world.internal)

        async def call_and_leave(timeout: float) -> None:
            permit = world.permit(arguments, tool="slow")
            request = gateway_service_pb2.ExecuteToolRequest(permit=permit, arguments_json='{"seconds": 2}')
            call = stub.ExecuteTool(request, metadata=world.token(Role.WORKER, subject=WORKER), timeout=20)
            await asyncio.wait({asyncio.ensure_future(call.code())}, timeout=timeout)
            call.cancel()

        await call_and_leave(0.4)
        await call_and_leave(0.4)
        error = await world.refusal(world.permit(arguments, tool="slow"), arguments)
        assert (error.reason, error.metadata["execution_state"]) == ("OVERLOADED", "NOT_STARTED")
        assert world.runs == 1


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.WORKER}))
async def test_only_workers_execute(allowing: World, role: Role) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(allowing.internal)
    tenant = "system" if role is Role.SERVICE else ""
    request = gateway_service_pb2.ExecuteToolRequest(permit=allowing.permit(), arguments_json="{}")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ExecuteTool(request, metadata=allowing.token(role, tenant=tenant))
    assert from_rpc_error(refused.value).reason == "ROLE_REQUIRED"
    assert allowing.runs == 0


async def test_the_public_door_executes_nothing(allowing: World) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(allowing.public)
    request = gateway_service_pb2.ExecuteToolRequest(permit=allowing.permit(), arguments_json="{}")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ExecuteTool(request, metadata=allowing.token(Role.WORKER, subject=WORKER))
    assert from_rpc_error(refused.value).reason == "INTERNAL_DOOR"


# Reading


async def list_calls(
    world: World, *, query: str = "", size: int = 0, token: str = "", tenant: str = ""
) -> gateway_service_pb2.ListToolCallsResponse:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
    request = gateway_service_pb2.ListToolCallsRequest(filter=query, page_size=size, page_token=token)
    try:
        return await stub.ListToolCalls(request, metadata=world.token(Role.VIEWER, tenant=tenant))
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def test_calls_are_listed_newest_first_page_by_page_and_filtered(allowing: World) -> None:
    task = str(uuid.uuid4())
    permits = [allowing.permit(task_id=task, step_key=f"s{n}") for n in range(4)]
    for permit in permits:
        await allowing.execute(permit)
    refused = allowing.permit(tool="nowhere")
    await allowing.refusal(refused)
    newest_first = [claims(each).call_id for each in [refused, *reversed(permits)]]
    assert [call.call_id for call in (await list_calls(allowing)).tool_calls] == newest_first
    found, token = [], ""
    while True:
        page = await list_calls(allowing, query=f'task_id = "{task}"', size=3, token=token)
        found += [call.call_id for call in page.tool_calls]
        token = page.next_page_token
        if not token:
            break
    assert found == newest_first[1:]
    of_status = await list_calls(allowing, query='status = "REFUSED" AND tool = "nowhere"')
    assert [call.call_id for call in of_status.tool_calls] == newest_first[:1]
    assert not (await list_calls(allowing, tenant=f"stranger-{uuid.uuid4()}")).tool_calls


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"query": 'color = "red"'}, "FILTER_INVALID"),
        ({"query": 'status = "LOST"'}, "FILTER_INVALID"),
        ({"query": 'task_id = "no-uuid"'}, "INVALID_FIELDS"),
        ({"token": "xyz"}, "PAGE_TOKEN_INVALID"),
        ({"size": -1}, "INVALID_FIELDS"),
    ],
)
async def test_a_bad_question_is_told_what_is_wrong(
    allowing: World, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RemoteError) as refused:
        await list_calls(allowing, **options)
    assert refused.value.reason == reason


async def test_a_call_of_another_tenant_is_not_found(allowing: World) -> None:
    permit = allowing.permit()
    await allowing.execute(permit)
    stub = gateway_service_pb2_grpc.GatewayServiceStub(allowing.public)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.GetToolCall(
            gateway_service_pb2.GetToolCallRequest(call_id=claims(permit).call_id),
            metadata=allowing.token(Role.VIEWER, tenant="somebody-else"),
        )
    assert from_rpc_error(refused.value).reason == "TOOL_CALL_NOT_FOUND"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SUPER_ADMIN])
async def test_who_covers_all_tenants_reads_the_one_it_names_and_nobody_else_does(
    allowing: World, role: Role
) -> None:
    permit = allowing.permit()
    await allowing.execute(permit)
    calls = gateway_service_pb2_grpc.GatewayServiceStub(allowing.public)
    policies = policy_service_pb2_grpc.PolicyServiceStub(allowing.public)
    named = (*allowing.token(role, tenant="system"), ("x-interlock-tenant", allowing.tenant))
    get = gateway_service_pb2.GetToolCallRequest(call_id=claims(permit).call_id)
    policy = policy_service_pb2.GetPolicyRequest(policy_id="all")
    if role is Role.SUPER_ADMIN:
        assert (await calls.GetToolCall(get, metadata=named)).tool_call.call_id == get.call_id
        listed = await calls.ListToolCalls(gateway_service_pb2.ListToolCallsRequest(), metadata=named)
        assert [call.call_id for call in listed.tool_calls] == [get.call_id]
        assert (await policies.GetPolicy(policy, metadata=named)).policy.policy_id == "all"
        return
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await calls.GetToolCall(get, metadata=named)
    assert from_rpc_error(refused.value).reason == "TENANT_FORBIDDEN"


async def test_the_state_of_the_sandbox_can_be_read(allowing: World) -> None:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(allowing.public)
    status = await stub.GetSandboxStatus(
        gateway_service_pb2.GetSandboxStatusRequest(), metadata=allowing.token(Role.VIEWER)
    )
    assert status.level == allowing.sandbox.status().level.name
    assert status.minimum == "STANDARD"
    assert {layer.name for layer in status.layers if layer.active} >= {"namespaces", "seccomp", "landlock"}
    assert all(layer.active or layer.remedy for layer in status.layers)
