"""Approvals: a person's yes to exactly one call, once, in time."""

import asyncio
import copy
import json
import uuid
from typing import Any

import grpc
import pytest

from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import approval_service_pb2 as messages
from interlock.gateway.v1 import approval_service_pb2_grpc, tool_call_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as tasks
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.world import World, claims, gateway, kinds, once, until

ASKING = '@approval("DEVELOPER") permit (principal, action, resource);'
APPROVED, DENIED = messages.APPROVAL_STATUS_APPROVED, messages.APPROVAL_STATUS_DENIED
PENDING = messages.APPROVAL_STATUS_PENDING


@pytest.fixture
async def asking(world: World) -> World:
    await world.allow("asks", ASKING)
    return world


def stub(world: World) -> "approval_service_pb2_grpc.ApprovalServiceAsyncStub":
    return approval_service_pb2_grpc.ApprovalServiceStub(world.public)


async def asked(world: World, permit: permit_pb2.Signed, arguments: Any = None) -> str:
    """Id of the approval that the call waits for."""
    error = await world.refusal(permit, arguments)
    assert (error.code.name, error.reason) == ("FAILED_PRECONDITION", "APPROVAL_REQUIRED")
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert "verdict" not in error.metadata
    return error.metadata["approval_id"]


async def decide(
    world: World, approval_id: str, *, yes: bool = True, by: str = "grace", role: Role = Role.DEVELOPER
) -> messages.Approval:
    decision = messages.APPROVAL_DECISION_APPROVE if yes else messages.APPROVAL_DECISION_DENY
    request = messages.DecideApprovalRequest(approval_id=approval_id, decision=decision, reason="because")
    try:
        answer = await stub(world).DecideApproval(request, metadata=world.token(role, subject=by))
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    return answer.approval


async def get(world: World, approval_id: str) -> messages.Approval:
    request = messages.GetApprovalRequest(approval_id=approval_id)
    return (await stub(world).GetApproval(request, metadata=world.token(Role.DEVELOPER))).approval


async def test_a_call_waits_for_a_person_and_runs_once_after_the_yes(asking: World) -> None:
    permit = asking.permit({"n": 1})
    approval_id = await asked(asking, permit, {"n": 1})
    assert await asked(asking, permit, {"n": 1}) == approval_id, "asked again, it is the same question"
    found = await get(asking, approval_id)
    call = claims(permit)
    assert (found.status, json.loads(found.arguments_json)) == (PENDING, {"n": 1})
    assert (found.call_id, found.tool_digest, found.argument_digest) == (
        call.call_id,
        call.tool_digest,
        call.argument_digest,
    )
    assert (found.submitter, list(found.policy_ids), found.decider_role) == ("ada", ["asks@1"], "DEVELOPER")
    assert asking.runs == 0
    decided = await decide(asking, approval_id)
    assert (decided.status, decided.decider, decided.decision_reason) == (APPROVED, "grace", "because")
    assert json.loads((await asking.execute(permit, {"n": 1})).result_json) == {"n": 1}
    assert (await get(asking, approval_id)).used
    stored = await asking.get(permit)
    assert stored.approval_id == approval_id
    verdict = next(each for each in stored.verdicts if each.check == "approval")
    assert verdict.passed
    assert "grace" in verdict.explanation


async def test_the_log_tells_who_was_asked_and_who_said_what_and_the_receipt_names_it(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    await decide(asking, approval_id)
    answer = await asking.execute(permit)
    told = await asking.told(permit, 5)
    assert sorted(kinds(told)) == [
        ("APPROVAL", "APPROVED", ""),
        ("APPROVAL", "REQUESTED", ""),
        ("TOOL_CALL", "REFUSED", "APPROVAL_REQUIRED"),
        ("TOOL_CALL", "RUNNING", ""),
        ("TOOL_RESULT", "COMPLETED", ""),
    ]
    said = next(each for each in told if each.status == "APPROVED")
    contents = {each.part: each.body for each in said.payloads}
    assert (said.actor, json.loads(contents["decision"])) == ("grace", {"reason": "because"})
    # What she said yes to is committed to, and can be erased.
    assert contents["argument_digest"].decode() == claims(permit).argument_digest
    assert "argument_digest" not in said.attributes
    running = next(each for each in told if each.status == "RUNNING")
    assert running.attributes["approval_id"] == approval_id
    assert tool_call_pb2.Receipt.FromString(answer.receipt.payload).approval_id == approval_id


async def test_a_no_refuses_the_call_for_good(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    await decide(asking, approval_id, yes=False)
    error = await asking.refusal(permit)
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "APPROVAL_DENIED")
    assert error.metadata["verdict"] == "true"
    assert "grace said no: because" in error.message
    assert asking.runs == 0


async def test_the_decision_reaches_the_task_that_waits(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    assert asking.orchestrator.provided == []
    asking.orchestrator.refuses_inputs = True
    await decide(asking, approval_id)
    asking.orchestrator.refuses_inputs = False
    await until(lambda: bool(asking.orchestrator.provided))
    given = asking.orchestrator.provided[0]
    assert (given.task_id, given.input_id) == (claims(permit).task_id, f"approval-{approval_id}")
    assert json.loads(given.answer_json) == {"decision": "APPROVED", "by": "grace", "reason": "because"}


async def test_a_gateway_killed_between_decision_and_telling_tells_after_its_next_start(
    closed_world: World,
) -> None:
    closed_world.publish_tool()
    closed_world.orchestrator.refuses_inputs = True
    async with gateway(closed_world) as world:
        await world.allow("asks", ASKING)
        permit = world.permit()
        approval_id = await asked(world, permit)
        await decide(world, approval_id)
    assert closed_world.orchestrator.provided == []
    closed_world.orchestrator.refuses_inputs = False
    async with gateway(closed_world) as world:
        await until(lambda: bool(world.orchestrator.provided))
        assert world.orchestrator.provided[0].input_id == f"approval-{approval_id}"
        await world.execute(permit)


async def test_of_two_deciders_the_first_counts_and_the_second_is_told(asking: World) -> None:
    approval_id = await asked(asking, asking.permit())

    async def says(who: str, yes: bool) -> str:  # noqa: FBT001
        try:
            await decide(asking, approval_id, yes=yes, by=who)
        except RemoteError as error:
            return f"{error.reason}: {error.message}"
        return "counted"

    said = await asyncio.gather(*(says(f"person-{n}", n % 2 == 0) for n in range(6)))
    assert said.count("counted") == 1
    winner = (await get(asking, approval_id)).decider
    others = [each for each in said if each != "counted"]
    assert all(each.startswith("APPROVAL_CLOSED") and winner in each for each in others)


async def test_the_same_decision_of_the_same_person_again_changes_nothing(asking: World) -> None:
    approval_id = await asked(asking, asking.permit())
    assert await decide(asking, approval_id) == await decide(asking, approval_id)


async def test_an_approval_lets_exactly_one_call_start(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    await decide(asking, approval_id)
    await asking.execute(permit)
    # The same call again is answered from its row; another call of the same kind asks anew.
    assert (await asking.execute(permit)).replayed
    assert await asked(asking, asking.permit()) != approval_id
    assert asking.runs == 1


@pytest.mark.parametrize("changed", ["agent_digest", "tool_digest", "argument_digest"])
async def test_a_yes_to_another_call_than_this_one_counts_for_nothing(asking: World, changed: str) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    await decide(asking, approval_id)
    await asking.sql(
        f"UPDATE approval SET {changed} = 'sha256:other' WHERE approval_id = :id RETURNING 1",  # noqa: S608
        id=uuid.UUID(approval_id),
    )
    assert await asked(asking, permit) != approval_id
    assert asking.runs == 0


async def test_an_approval_that_nobody_decides_expires_and_the_task_goes_on(closed_world: World) -> None:
    closed_world.publish_tool()
    async with gateway(closed_world, approval_hours=0.3 / 3600) as world:
        await world.allow("asks", ASKING)
        permit = world.permit()
        approval_id = await asked(world, permit)
        await until(lambda: bool(world.orchestrator.provided))
        assert json.loads(world.orchestrator.provided[0].answer_json)["decision"] == "EXPIRED"
        error = await world.refusal(permit)
        assert (error.reason, error.message) == (
            "APPROVAL_DENIED",
            "the call was not approved: nobody decided in time",
        )
        with pytest.raises(RemoteError, match="expired"):
            await decide(world, approval_id)


async def test_a_yes_that_was_not_used_in_time_is_asked_for_anew(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    await decide(asking, approval_id)
    await asking.sql(
        "UPDATE approval SET expire_time = clock_timestamp() WHERE approval_id = :id RETURNING 1",
        id=uuid.UUID(approval_id),
    )
    assert await asked(asking, permit) != approval_id


async def test_an_approval_ends_with_its_task(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    asking.stand(claims(permit), tasks.ATTEMPT_STANDING_TASK_OVER)

    async def canceled() -> bool:
        return (await get(asking, approval_id)).status == messages.APPROVAL_STATUS_CANCELED

    await until(canceled)
    with pytest.raises(RemoteError, match="canceled"):
        await decide(asking, approval_id)
    assert asking.orchestrator.provided == []


async def test_who_submitted_the_task_may_not_approve_its_calls(asking: World) -> None:
    approval_id = await asked(asking, asking.permit())
    with pytest.raises(RemoteError) as raised:
        await decide(asking, approval_id, by="ada")
    assert raised.value.reason == "APPROVAL_FORBIDDEN"
    assert (await get(asking, approval_id)).status == PENDING


async def test_a_policy_may_ask_for_an_admin_and_the_strictest_of_those_that_allow_counts(
    world: World,
) -> None:
    await world.allow("plain", "permit (principal, action, resource);")
    await world.allow("asks", ASKING)
    await world.allow("admin", '@approval("ADMIN") permit (principal, action, resource);')
    approval_id = await asked(world, world.permit())
    with pytest.raises(RemoteError) as raised:
        await decide(world, approval_id)
    assert (raised.value.reason, "ADMIN" in raised.value.message) == ("APPROVAL_FORBIDDEN", True)
    assert (await decide(world, approval_id, role=Role.ADMIN)).status == APPROVED


async def test_a_yes_of_too_little_weight_counts_no_more_once_a_policy_asks_for_an_admin(
    asking: World,
) -> None:
    decided, waiting = asking.permit(), asking.permit()
    first = await asked(asking, decided)
    await decide(asking, first)
    second = await asked(asking, waiting)
    await asking.allow("admin", '@approval("ADMIN") permit (principal, action, resource);')
    for permit, before in ((decided, first), (waiting, second)):
        now = await asked(asking, permit)
        assert now != before
        assert (await get(asking, now)).decider_role == "ADMIN"
    assert (await get(asking, second)).status == messages.APPROVAL_STATUS_CANCELED
    assert asking.runs == 0
    await decide(asking, await asked(asking, decided), role=Role.ADMIN)
    await asking.execute(decided)


async def test_a_tool_may_demand_an_approval_of_every_call(closed_world: World) -> None:
    spec = closed_world.publish_tool().spec
    version = closed_world.tools["echo"]
    version.spec.CopyFrom(spec)
    version.spec.requires_approval = True
    async with gateway(closed_world) as world:
        await world.allow()
        await asked(world, world.permit())


async def test_an_approval_of_a_call_that_never_started_can_be_used_after_all(asking: World) -> None:
    permit = asking.permit()
    approval_id = await asked(asking, permit)
    await decide(asking, approval_id)
    asking.audit.refuses = True
    assert await asking.reason(permit) == "AUDIT_UNAVAILABLE"
    asking.audit.refuses = False

    async def given_back() -> bool:
        return not (await get(asking, approval_id)).used

    await until(given_back)
    await once("", lambda: asking.reason(permit), instead_of="AUDIT_UNAVAILABLE")
    assert asking.runs == 1


async def test_watchers_see_what_is_pending_and_then_every_change_and_go_on_from_a_cursor(
    asking: World,
) -> None:
    first = await asked(asking, asking.permit())
    metadata = asking.token(Role.VIEWER)
    seen: list[tuple[str, int]] = []
    cursor = ""

    async def see(count: int) -> None:
        nonlocal cursor
        stream = stub(asking).WatchApprovals(messages.WatchApprovalsRequest(cursor=cursor), metadata=metadata)
        async with asyncio.timeout(10):
            async for message in stream:
                assert all(not each.arguments_json for each in message.approvals)
                seen.extend((each.approval_id, each.status) for each in message.approvals)
                cursor = message.cursor or cursor
                if len(seen) >= count and message.cursor:
                    break
        stream.cancel()

    await see(1)
    assert seen == [(first, PENDING)]
    second = await asked(asking, asking.permit())
    await decide(asking, first)
    await see(3)
    assert seen[1:] == [(second, PENDING), (first, APPROVED)]


async def test_a_cursor_of_another_log_is_refused(asking: World) -> None:
    for cursor, reason in (("x", "INVALID_FIELDS"), (f"{uuid.uuid4()}.0", "CURSOR_INVALID")):
        stream = stub(asking).WatchApprovals(
            messages.WatchApprovalsRequest(cursor=cursor), metadata=asking.token(Role.VIEWER)
        )
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stream.read()
        assert from_rpc_error(raised.value).reason == reason


async def test_approvals_are_listed_filtered_page_by_page_and_never_of_another_tenant(asking: World) -> None:
    ids = [await asked(asking, asking.permit()) for _ in range(3)]
    await decide(asking, ids[0])
    metadata = asking.token(Role.VIEWER)
    request = messages.ListApprovalsRequest(page_size=1, filter='status = "PENDING"')
    found: list[str] = []
    while True:
        page = await stub(asking).ListApprovals(request, metadata=metadata)
        found.extend(each.approval_id for each in page.approvals)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert found == ids[:0:-1]
    task_id = (await get(asking, ids[0])).task_id
    for written in (task_id, f"urn:uuid:{task_id.upper()}", task_id.replace("-", "")):
        of_task = messages.ListApprovalsRequest(filter=f'task_id = "{written}"')
        page = await stub(asking).ListApprovals(of_task, metadata=metadata)
        assert [each.approval_id for each in page.approvals] == [ids[0]]
    elsewhere = asking.token(Role.DEVELOPER, tenant="elsewhere")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(asking).GetApproval(messages.GetApprovalRequest(approval_id=ids[0]), metadata=elsewhere)
    assert from_rpc_error(raised.value).reason == "APPROVAL_NOT_FOUND"


async def test_bad_decisions_name_their_fields(asking: World) -> None:
    approval_id = await asked(asking, asking.permit())
    request = messages.DecideApprovalRequest(approval_id=approval_id, reason="x" * 501)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(asking).DecideApproval(request, metadata=asking.token(Role.ADMIN, subject="grace"))
    assert {each.field for each in from_rpc_error(raised.value).violations} == {"decision", "reason"}


async def test_two_gateways_ask_one_question_and_either_takes_the_answer(asking: World) -> None:
    permit = asking.permit()
    address = f"unix:{asking.folder}/replica"
    async with gateway(copy.copy(asking), slot="replica", internal_address=address) as other:
        ids = await asyncio.gather(asked(asking, permit), asked(other, permit))
        assert ids[0] == ids[1]
        await decide(other, ids[0])
        answers = await asyncio.gather(asking.execute(permit), other.execute(permit))
    assert sorted(each.replayed for each in answers) == [False, True]
