"""What would become of a call: the checks of a real one, and no effect."""

from typing import Any

import grpc
import pytest

from interlock.gateway.v1 import gateway_service_pb2 as messages
from interlock.gateway.v1 import gateway_service_pb2_grpc
from interlock.registry.v1 import tool_pb2
from svc_kit.identity import Role
from svc_kit.identity.principal import SYSTEM_TENANT
from svc_kit.status import from_rpc_error
from tests.gateway.test_approvals import ASKING
from tests.gateway.world import AGENT, TOOL_VERSION, World, gateway

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
SMALL = "permit (principal, action, resource) when { context.arguments.n < 10 };"


async def check(
    world: World, arguments_json: str = "{}", tool: str = "echo", **fields: Any
) -> messages.CheckToolCallResponse:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
    request = messages.CheckToolCallRequest(
        **({"agent": AGENT} | fields), tool=tool, arguments_json=arguments_json
    )
    try:
        return await stub.CheckToolCall(request, metadata=world.token(Role.DEVELOPER))
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def allowed_tools(world: World) -> dict[str, messages.AllowedTool]:
    stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
    request = messages.ListAllowedToolsRequest(agent=AGENT)
    answer = await stub.ListAllowedTools(request, metadata=world.token(Role.DEVELOPER))
    return {each.tool: each for each in answer.tools}


def said(answer: messages.CheckToolCallResponse) -> dict[str, str]:
    return {
        each.check: "skipped" if each.skipped else "passed" if each.passed else "failed"
        for each in answer.verdicts
    }


async def test_a_call_that_would_start_is_allowed_and_nothing_of_it_happens(world: World) -> None:
    await world.allow()
    before = len(world.audit.events)
    answer = await check(world)
    assert (answer.allowed, answer.reason, answer.tool_version) == (True, "", TOOL_VERSION)
    assert set(said(answer).values()) == {"passed"}
    assert world.runs == 0
    assert len(world.audit.events) == before
    assert await world.sql("SELECT 1 FROM tool_call WHERE tenant = :tenant", tenant=world.tenant) == []


async def test_each_refusal_is_an_answer_with_the_verdicts_so_far(closed_world: World) -> None:
    closed_world.publish_tool("echo", input_schema=NUMBER)
    async with gateway(closed_world) as world:
        unbound = await check(world, tool="nothing")
        assert (unbound.reason, said(unbound)["binding"]) == ("TOOL_NOT_BOUND", "failed")
        unfit = await check(world, '{"n": "x"}')
        assert (unfit.reason, [each.field for each in unfit.violations]) == ("ARGUMENTS_INVALID", ["/n"])
        broken = await check(world, "{")
        assert (broken.reason, broken.allowed) == ("ARGUMENTS_INVALID", False)
        denied = await check(world, '{"n": 1}')
        assert (denied.reason, said(denied)["allow"]) == ("POLICY_DENIED", "failed")


async def test_every_policy_says_what_it_says_to_this_very_call(closed_world: World) -> None:
    closed_world.publish_tool("echo", input_schema=NUMBER)
    async with gateway(closed_world) as world:
        await world.allow("small", SMALL)
        await world.allow("asks", ASKING)
        await world.allow(
            "stumbles", "forbid (principal, action, resource) when { context.arguments.x > 1 };"
        )
        answer = await check(world, '{"n": 50}')
        voices = {each.policy_id: each for each in answer.policies}
        assert (voices["small@1"].permits, voices["small@1"].applies, voices["small@1"].conditional) == (
            True,
            False,
            True,
        )
        assert (voices["asks@1"].applies, voices["asks@1"].approval_role) == (True, "DEVELOPER")
        assert (voices["stumbles@1"].permits, voices["stumbles@1"].applies) == (False, False)
        assert "could not be evaluated" in voices["stumbles@1"].error
        assert (answer.allowed, answer.reason) == (False, "POLICY_DENIED")


async def test_an_approval_is_named_and_asked_of_nobody(world: World) -> None:
    await world.allow("asks", ASKING)
    answer = await check(world)
    assert (answer.allowed, answer.approval_role) == (True, "DEVELOPER")
    assert await world.sql("SELECT 1 FROM approval WHERE tenant = :tenant", tenant=world.tenant) == []


async def test_the_question_may_be_asked_for_somebody_else(world: World) -> None:
    await world.allow(
        "grace", 'permit (principal, action, resource) when { context.submitter.subject == "grace" };'
    )
    assert not (await check(world)).allowed
    assert (await check(world, submitter="grace", submitter_roles=["SUBMITTER"])).allowed


async def test_what_a_check_answers_is_what_the_call_does(closed_world: World) -> None:
    closed_world.publish_tool("echo", input_schema=NUMBER)
    async with gateway(closed_world) as world:
        await world.allow("small", SMALL)
        for n in (1, 50):
            permit = world.permit({"n": n})
            assert (await world.reason(permit, {"n": n})) == (await check(world, f'{{"n": {n}}}')).reason


async def test_the_tools_of_an_agent_are_listed_with_what_stands_in_their_way(closed_world: World) -> None:
    for name in ("free", "barred", "off", "unheard"):
        closed_world.publish_tool(name)
    closed_world.registry.publish(
        closed_world.tenant,
        tool_pb2.Tool(name="off", latest_version=TOOL_VERSION, status=tool_pb2.STATUS_DISABLED),
    )
    async with gateway(closed_world) as world:
        for tool in ("free", "barred", "off"):
            await world.allow(tool, f'permit (principal, action, resource == Interlock::Tool::"{tool}");')
        await world.allow("bars", 'forbid (principal, action, resource == Interlock::Tool::"barred");')
        found = await allowed_tools(world)
    assert {name: each.callable for name, each in found.items()} == {
        "free": True,
        "barred": False,
        "off": False,
        "unheard": False,
    }
    assert [name for name, each in found.items() if "disabled" in each.message] == ["off"]
    assert "bars@1 forbids" in found["barred"].message
    assert "interlock allow" in found["unheard"].message


async def test_policies_of_the_system_hold_for_every_tenant_and_no_tenant_changes_them(
    closed_world: World,
) -> None:
    closed_world.publish_tool()
    async with gateway(closed_world) as world:
        await world.allow()
        policy_id = f"never-{world.tenant}"
        forbid = f'forbid (principal == Interlock::Agent::"{AGENT}", action, resource) when '
        forbid += f'{{ context.submitter.tenant == "{world.tenant}" }};'
        await world.allow_as(SYSTEM_TENANT, policy_id, forbid)
        try:
            answer = await check(world)
            assert (answer.allowed, answer.reason) == (False, "POLICY_DENIED")
            (voice,) = [each for each in answer.policies if not each.permits]
            assert (voice.policy_id, voice.applies) == (f"system/{policy_id}@1", True)
            assert await world.reason(world.permit()) == "POLICY_DENIED"
        finally:
            await world.sql(
                "WITH gone AS (DELETE FROM policy WHERE policy_id = :id)"
                " UPDATE policy_head SET revision = revision + 1 WHERE tenant = :tenant RETURNING 1",
                id=policy_id,
                tenant=SYSTEM_TENANT,
            )


@pytest.mark.parametrize("field", ["agent", "tool"])
async def test_what_is_missing_is_named(world: World, field: str) -> None:
    with pytest.raises(Exception, match=field):
        await check(world, tool="" if field == "tool" else "echo", agent="" if field == "agent" else AGENT)
