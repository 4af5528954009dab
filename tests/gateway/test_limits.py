"""Limits of tool calls: exact over all gateways, set by publishers and, whatever those say, by operators."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest

from interlock.gateway.v1 import limit_service_pb2, limit_service_pb2_grpc
from interlock.orchestrator.v1.orchestrator_service_pb2 import ATTEMPT_STANDING_TASK_OVER
from svc_kit.clock import SystemClock
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.world import World, claims, gateway, kinds, until

SLOW = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"
LONG = {"seconds": 15}


@pytest.fixture
async def allowing(closed_world: World) -> AsyncIterator[World]:
    closed_world.publish_tool()
    closed_world.publish_tool("slow", SLOW, timeout={"seconds": 30}, max_running=1)
    closed_world.publish_tool("rare", max_calls_per_minute=2)
    async with gateway(closed_world) as world:
        await world.allow()
        yield world


async def limit(world: World, *, tenant: str = "", **fields: Any) -> limit_service_pb2.CallLimit:
    """SetCallLimit, by an operator of the tenant; raises RemoteError."""
    stub = limit_service_pb2_grpc.LimitServiceStub(world.public)
    request = limit_service_pb2.SetCallLimitRequest(limit=limit_service_pb2.CallLimit(**fields))
    try:
        return (await stub.SetCallLimit(request, metadata=world.token(Role.ADMIN, tenant=tenant))).limit
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def answers(world: World, count: int, tool: str = "echo") -> list[str]:
    """How so many calls at once end: the reasons of their errors, in order of the alphabet."""
    permits = [world.permit(tool=tool) for _ in range(count)]
    return sorted(await asyncio.gather(*(world.reason(permit) for permit in permits)))


async def test_a_tool_at_its_limit_is_refused_with_a_time_to_come_back_and_called_once_there_is_room(
    allowing: World,
) -> None:
    first, second = (allowing.permit(LONG, tool="slow") for _ in range(2))
    running = asyncio.ensure_future(allowing.refusal(first, LONG))
    await until(lambda: allowing.runs == 1)
    error = await allowing.refusal(second, LONG)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    assert error.retry_after == 1.0
    assert error.metadata["limit"] == "max_running"
    assert (error.metadata["at"], error.metadata["most"]) == ("tool slow", "1")
    assert (error.metadata["execution_state"], "verdict" in error.metadata) == ("NOT_STARTED", False)
    allowing.orchestrator.stand(allowing.tenant, claims(first).task_id, 1, ATTEMPT_STANDING_TASK_OVER)
    assert (await running).reason == "TOOL_CANCELED"
    short = {"seconds": 0}
    await allowing.execute(allowing.permit(short, tool="slow"), short)
    assert allowing.runs == 2


async def test_a_call_that_asks_again_and_again_is_recorded_once_with_the_limit_that_stopped_it(
    allowing: World,
) -> None:
    assert await answers(allowing, 2, "rare") == ["", ""]
    permit = allowing.permit(tool="rare")
    for _ in range(2):
        await allowing.refusal(permit)
    error = await allowing.refusal(permit)
    assert 0 < (error.retry_after or 0) <= 10
    assert kinds(await allowing.told(permit, 1)) == [("TOOL_CALL", "REFUSED", "QUOTA_EXCEEDED")]
    call = await allowing.get(permit)
    assert call.reason == "QUOTA_EXCEEDED"
    assert "max_per_minute is set by its publisher" in call.message
    assert allowing.runs == 2
    assert len(allowing.entries(permit)) == 1


async def test_calls_of_a_minute_are_counted_exactly_over_two_gateways(allowing: World) -> None:
    await limit(allowing, tool="echo", max_per_minute=7)
    first = allowing.internal
    async with gateway(allowing, slot="replica", internal_address=f"unix:{allowing.folder}/replica"):
        second, ends = allowing.internal, []
        for number in range(20):
            allowing.internal = first if number % 2 else second
            ends.append(asyncio.ensure_future(allowing.reason(allowing.permit())))
            await asyncio.sleep(0)
        assert sorted(await asyncio.gather(*ends)) == [""] * 7 + ["QUOTA_EXCEEDED"] * 13


async def test_a_gateway_whose_clock_is_late_lets_no_more_in(
    closed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(minutes=5)

    monkeypatch.setattr("gateway_svc.server.SystemClock", Late)
    closed_world.publish_tool("rare", max_calls_per_minute=2)
    async with gateway(closed_world) as world:
        await world.allow()
        assert [await world.reason(world.permit(tool="rare")) for _ in range(3)] == ["", "", "QUOTA_EXCEEDED"]


async def test_what_was_refused_or_withdrawn_does_not_count(allowing: World) -> None:
    await limit(allowing, tool="echo", max_per_minute=1)
    allowing.audit.refuses = True
    assert await allowing.reason(allowing.permit()) == "AUDIT_UNAVAILABLE"
    allowing.audit.refuses = False
    assert await answers(allowing, 3) == ["", "QUOTA_EXCEEDED", "QUOTA_EXCEEDED"]


async def test_no_publisher_lifts_what_an_operator_limits(allowing: World) -> None:
    await limit(allowing, tool="rare", max_per_minute=1)
    assert await answers(allowing, 2, "rare") == ["", "QUOTA_EXCEEDED"]


async def test_the_limit_of_a_tenant_holds_over_all_its_tools(allowing: World) -> None:
    await limit(allowing, max_per_minute=3)
    assert await answers(allowing, 2, "rare") == ["", ""]
    assert await answers(allowing, 3) == ["", "QUOTA_EXCEEDED", "QUOTA_EXCEEDED"]
    error = await allowing.refusal(allowing.permit())
    assert (error.metadata["at"], error.metadata["most"]) == (f"the tools of tenant {allowing.tenant}", "3")


async def test_a_limit_of_all_tenants_holds_in_each_and_a_tenants_operator_does_not_lift_it(
    allowing: World,
) -> None:
    await limit(allowing, tenant="system", max_per_minute=1)
    try:
        await limit(allowing, max_per_minute=50)
        assert await answers(allowing, 2) == ["", "QUOTA_EXCEEDED"]
    finally:
        await limit(allowing, tenant="system")
    assert await answers(allowing, 2) == ["", ""]


async def test_a_limit_is_set_changed_listed_removed_and_told(allowing: World) -> None:
    stub = limit_service_pb2_grpc.LimitServiceStub(allowing.public)
    for tool in ("b", "", "a"):
        await limit(allowing, tool=tool, max_running=2)
    await limit(allowing, tool="b", max_per_minute=9)
    await limit(allowing, tool="a")
    found, token = [], ""
    while True:
        request = limit_service_pb2.ListCallLimitsRequest(page_size=1, page_token=token)
        answer = await stub.ListCallLimits(request, metadata=allowing.token(Role.ADMIN))
        found += [(each.tool, each.max_running, each.max_per_minute, each.updater) for each in answer.limits]
        token = answer.next_page_token
        if not token:
            break
    assert found == [("", 2, 0, "ada"), ("b", 0, 9, "ada")]
    told = ["LIMIT_SET"] * 4 + ["LIMIT_REMOVED"]
    await until(lambda: [e.status for e in allowing.audit.events if e.status.startswith("LIMIT")] == told)


async def test_a_bad_limit_is_told_everything_that_is_wrong_with_it(allowing: World) -> None:
    with pytest.raises(RemoteError) as caught:
        await limit(allowing, tool="no such/name", max_running=-1, max_per_minute=1_000_001)
    assert caught.value.reason == "INVALID_FIELDS"
    assert [each.field for each in caught.value.violations] == [
        "limit.tool",
        "limit.max_running",
        "limit.max_per_minute",
    ]
