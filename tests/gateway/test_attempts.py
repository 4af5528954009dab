"""Calls of attempts that are over: refused before they begin, ended while they run."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc, tool_call_pb2
from interlock.orchestrator.v1.orchestrator_service_pb2 import (
    ATTEMPT_STANDING_CANCELING,
    ATTEMPT_STANDING_LIVE,
    ATTEMPT_STANDING_OVER,
    ATTEMPT_STANDING_TASK_OVER,
    AttemptStanding,
)
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.world import World, claims, gateway, kinds, until

SLOW = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"
LONG = {"seconds": 4}


@pytest.fixture
async def allowing(closed_world: World) -> AsyncIterator[World]:
    closed_world.publish_tool()
    closed_world.publish_tool("slow", SLOW, timeout={"seconds": 30})
    async with gateway(closed_world) as world:
        await world.allow()
        yield world


async def cancel(world: World, call_id: str, role: Role = Role.DEVELOPER) -> tool_call_pb2.ToolCall:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
    request = gateway_service_pb2.CancelToolCallRequest(call_id=call_id)
    try:
        return (await stub.CancelToolCall(request, metadata=world.token(role), timeout=10)).tool_call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


@pytest.mark.parametrize(
    "standing", [ATTEMPT_STANDING_CANCELING, ATTEMPT_STANDING_OVER, ATTEMPT_STANDING_TASK_OVER]
)
async def test_a_call_of_an_attempt_that_is_over_is_refused_and_recorded(
    allowing: World, standing: AttemptStanding.ValueType
) -> None:
    permit = allowing.permit()
    allowing.stand(claims(permit), standing)
    error = await allowing.refusal(permit)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "STALE_ATTEMPT")
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert "verdict" not in error.metadata
    assert allowing.runs == 0
    assert kinds(await allowing.told(permit, 1)) == [("TOOL_CALL", "REFUSED", "STALE_ATTEMPT")]


async def test_a_call_of_an_older_attempt_is_refused_and_the_newer_one_may_make_it(allowing: World) -> None:
    old = allowing.permit()
    new = allowing.permit(call_id=claims(old).call_id, task_id=claims(old).task_id, attempt=2)
    assert (await allowing.refusal(old)).reason == "STALE_ATTEMPT"
    assert not (await allowing.execute(new)).replayed


async def test_a_call_that_is_faster_than_the_news_of_its_attempt_waits_for_them(allowing: World) -> None:
    permit = allowing.permit(attempt=2)
    allowing.orchestrator.stand(claims(permit).tenant, claims(permit).task_id, 1, ATTEMPT_STANDING_OVER)
    called = asyncio.ensure_future(allowing.execute(permit))
    await asyncio.sleep(0)
    allowing.stand(claims(permit), ATTEMPT_STANDING_LIVE)
    assert not (await called).replayed


async def test_an_attempt_that_nobody_knows_is_refused(allowing: World) -> None:
    permit = allowing.permit()
    other = allowing.permit(attempt=2, task_id=claims(permit).task_id)
    allowing.orchestrator.stand(claims(permit).tenant, claims(permit).task_id, 1, ATTEMPT_STANDING_LIVE)
    assert (await allowing.refusal(other)).reason == "STALE_ATTEMPT"
    assert allowing.runs == 0


@pytest.mark.parametrize("standing", [ATTEMPT_STANDING_CANCELING, ATTEMPT_STANDING_TASK_OVER])
async def test_a_running_tool_is_ended_when_its_task_is_over_or_asked_to_end(
    allowing: World, standing: AttemptStanding.ValueType
) -> None:
    permit = allowing.permit(LONG, tool="slow")
    running = asyncio.ensure_future(allowing.refusal(permit, LONG))
    await until(lambda: allowing.runs == 1)
    allowing.stand(claims(permit), standing)
    error = await running
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "TOOL_CANCELED")
    assert error.metadata["execution_state"] == "COMPLETED"
    assert kinds(await allowing.told(permit, 2))[1] == ("TOOL_RESULT", "FAILED", "TOOL_CANCELED")
    assert allowing.sandbox.status().running == 0


async def test_a_running_tool_is_ended_whose_task_ended_while_the_feed_was_broken(allowing: World) -> None:
    ends, retried = (allowing.permit(LONG, tool="slow") for _ in range(2))
    ended, joined = (asyncio.ensure_future(allowing.refusal(each, LONG)) for each in (ends, retried))
    await until(lambda: allowing.runs == 2)
    allowing.orchestrator.silent = True
    await until(lambda: allowing.orchestrator.watchers == 0)
    allowing.stand(claims(ends), ATTEMPT_STANDING_TASK_OVER)
    allowing.stand(claims(retried), ATTEMPT_STANDING_OVER)
    allowing.orchestrator.silent = False
    assert (await ended).reason == "TOOL_CANCELED"
    assert kinds(await allowing.told(ends, 2))[1] == ("TOOL_RESULT", "FAILED", "TOOL_CANCELED")
    # The next attempt of a task that goes on may join its tool, which is left alone.
    assert allowing.sandbox.status().running == 1 and not joined.done()
    allowing.stand(claims(retried), ATTEMPT_STANDING_TASK_OVER)
    assert (await joined).reason == "TOOL_CANCELED"


async def test_a_tool_goes_on_for_the_next_attempt_which_joins_it(allowing: World) -> None:
    arguments = {"seconds": 0.6}
    old = allowing.permit(arguments, tool="slow")
    first = asyncio.ensure_future(allowing.execute(old, arguments))
    await until(lambda: allowing.runs == 1)
    allowing.stand(claims(old), ATTEMPT_STANDING_OVER)
    new = allowing.permit(
        arguments, tool="slow", call_id=claims(old).call_id, task_id=claims(old).task_id, attempt=2
    )
    assert (await allowing.execute(new, arguments)).result_json == "0.6"
    assert (await first).result_json == "0.6"
    assert allowing.runs == 1


async def test_a_developer_ends_a_running_call_and_is_recorded_as_the_one_who_did(allowing: World) -> None:
    permit = allowing.permit(LONG, tool="slow")
    running = asyncio.ensure_future(allowing.refusal(permit, LONG))
    await until(lambda: allowing.runs == 1)
    with pytest.raises(RemoteError) as raised:
        await cancel(allowing, claims(permit).call_id, Role.VIEWER)
    assert raised.value.reason == "ROLE_REQUIRED"
    call = await cancel(allowing, claims(permit).call_id)
    assert (call.status, call.reason) == (tool_call_pb2.TOOL_CALL_STATUS_FAILED, "TOOL_CANCELED")
    assert (await running).reason == "TOOL_CANCELED"
    assert "ada asked for it" in (await allowing.get(permit)).message
    assert await cancel(allowing, claims(permit).call_id) == call


async def test_a_call_is_ended_by_way_of_another_gateway(allowing: World) -> None:
    permit = allowing.permit(LONG, tool="slow")
    running = asyncio.ensure_future(allowing.refusal(permit, LONG))
    await until(lambda: allowing.runs == 1)
    async with gateway(allowing, slot="replica", internal_address=f"unix:{allowing.folder}/replica"):
        call = await cancel(allowing, claims(permit).call_id)
    assert call.reason == "TOOL_CANCELED"
    assert (await running).reason == "TOOL_CANCELED"


async def test_a_call_that_is_not_there_cannot_be_ended(allowing: World) -> None:
    with pytest.raises(RemoteError) as raised:
        await cancel(allowing, "0190b1d2-0000-7000-8000-000000000000")
    assert raised.value.reason == "TOOL_CALL_NOT_FOUND"
