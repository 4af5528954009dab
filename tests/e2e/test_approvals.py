"""Approvals from end to end: the task parks with its slot freed, and goes on by itself after the decision."""

import json
import uuid

import pytest

from interlock.client import Client
from interlock.client.errors import InterlockError
from interlock.gateway.v1 import approval_service_pb2 as messages
from interlock.gateway.v1 import policy_service_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2
from interlock.registry.v1 import agent_pb2
from tests.e2e.catalogue import publish_agent
from tests.e2e.observing import COMPLETED, FAILED, ended, entries_of, eventually, full_trail, submit
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO

PARKED = task_pb2.TASK_STATE_INPUT_REQUIRED
_CATCHES = """
from interlock.agent import ToolRefused

async def run(context, input):
    try:
        return await context.call_tool("echo", {"value": input["value"]})
    except ToolRefused as error:
        return error.error_class
"""


async def agent(suite: RunningSuite, **runtime: object) -> str:
    """An agent whose one tool needs a person's yes."""
    name = f"asks-{uuid.uuid4().hex[:8]}"
    cedar = (
        f'@approval("DEVELOPER") permit (principal == Interlock::Agent::"{name}", action,'
        f' resource == Interlock::Tool::"{ECHO.tool}");'
    )
    spec = agent_pb2.AgentSpec(
        description="Asks first.",
        capabilities=["asking"],
        tools=[agent_pb2.ToolBinding(tool=ECHO.tool)],
        **runtime or {"plan": ECHO.agent_spec().plan},  # type: ignore[arg-type]
    )
    async with suite.client("SUPER_ADMIN") as client:
        await publish_agent(client, name, spec)
        policy = policy_service_pb2.Policy(policy_id=name, cedar=cedar, description="For a test.")
        await client.call(client.policies.CreatePolicy, policy_service_pb2.CreatePolicyRequest(policy=policy))
    return name


async def pending(client: Client, task_id: str) -> messages.Approval:
    """The approval that a task waits for, once it is parked."""

    async def parked() -> bool:
        return (await client.get(task_id)).state == PARKED

    await eventually(parked)
    request = messages.ListApprovalsRequest(filter=f'task_id = "{task_id}" AND status = "PENDING"')
    (found,) = (await client.call(client.approvals.ListApprovals, request)).approvals
    return found


async def decide(client: Client, approval_id: str, *, yes: bool) -> None:
    decision = messages.APPROVAL_DECISION_APPROVE if yes else messages.APPROVAL_DECISION_DENY
    request = messages.DecideApprovalRequest(approval_id=approval_id, decision=decision)
    await client.call(client.approvals.DecideApproval, request)


async def test_a_plan_waits_for_a_yes_without_a_worker_and_goes_on_by_itself(
    suite: RunningSuite, client: Client
) -> None:
    task_id = await submit(client, await agent(suite), value="x")
    found = await pending(client, task_id)
    task = await client.get(task_id)
    (question,) = task.input_requests
    assert question.kind == task_pb2.INPUT_KIND_APPROVAL
    assert found.approval_id in question.prompt
    await decide(client, found.approval_id, yes=True)
    (task,) = await ended(client, task_id)
    assert (task.state, task.result_json, task.failures) == (COMPLETED, '"x"', 0)
    trail = await full_trail(client, task)
    assert len(entries_of(trail, "APPROVAL")) == 2  # asked, and decided


async def test_a_no_ends_a_plan_and_is_told_to_an_agent_that_can_go_on(
    suite: RunningSuite, client: Client
) -> None:
    catching = await agent(suite, python=agent_pb2.PythonRuntime(source=_CATCHES))
    task_ids = [await submit(client, name, value="x") for name in (await agent(suite), catching)]
    for task_id in task_ids:
        await decide(client, (await pending(client, task_id)).approval_id, yes=False)
    plan, python = await ended(client, *task_ids)
    assert (plan.state, plan.error.error_class) == (FAILED, "APPROVAL_DENIED")
    assert (python.state, json.loads(python.result_json)) == (COMPLETED, "APPROVAL_DENIED")


async def test_a_canceled_task_needs_no_decision_any_more(suite: RunningSuite, client: Client) -> None:
    task_id = await submit(client, await agent(suite), value="x")
    found = await pending(client, task_id)
    await client.call(client.tasks.CancelTask, orchestrator_service_pb2.CancelTaskRequest(task_id=task_id))

    async def canceled() -> bool:
        request = messages.GetApprovalRequest(approval_id=found.approval_id)
        now = (await client.call(client.approvals.GetApproval, request)).approval
        return now.status == messages.APPROVAL_STATUS_CANCELED

    await eventually(canceled)
    with pytest.raises(InterlockError, match="canceled"):
        await decide(client, found.approval_id, yes=True)


async def test_a_retried_task_asks_anew(suite: RunningSuite, client: Client) -> None:
    task_id = await submit(client, await agent(suite), value="x")
    await decide(client, (await pending(client, task_id)).approval_id, yes=False)
    await ended(client, task_id)
    request = orchestrator_service_pb2.RetryTaskRequest(task_id=task_id, request_id=str(uuid.uuid4()))
    again = (await client.call(client.tasks.RetryTask, request)).task.task_id
    await decide(client, (await pending(client, again)).approval_id, yes=True)
    (task,) = await ended(client, again)
    assert task.state == COMPLETED
