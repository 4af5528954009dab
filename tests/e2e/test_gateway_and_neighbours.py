"""The gateway dies in the middle of calls, and its neighbours go away: nothing runs unrecorded or twice."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import grpc
import pytest

from interlock.client import Client
from interlock.common.remote_error import RemoteError
from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import (
    orchestrator_service_pb2,
    orchestrator_service_pb2_grpc,
    task_pb2,
)
from tests.e2e.observing import (
    COMPLETED,
    FAILED,
    Entry,
    assert_ended_once,
    calls,
    ended,
    entries_of,
    eventually,
    full_trail,
    outcomes,
    run,
    running_call,
    submit,
)
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO, NAP, NAP_ONCE
from tests.suite.harness import alive, descendants

pytestmark = pytest.mark.chaos

Down = Callable[[RunningSuite], AbstractContextManager[None]]


@pytest.mark.parametrize(
    "down",
    [
        pytest.param(lambda suite: suite.without("audit"), id="dead"),
        pytest.param(lambda suite: suite.hanging("audit"), id="hanging"),
    ],
)
async def test_nothing_is_executed_while_the_audit_log_is_away(
    suite: RunningSuite, client: Client, down: Down
) -> None:
    gateway = suite.pid("gateway")
    with down(suite):
        sandboxes = descendants(gateway)
        task_id = await submit(client, NAP.name, seconds=0)
        (call,) = await eventually(lambda: refused_calls(client, task_id))
        assert (call.reason, call.isolation) == ("AUDIT_UNAVAILABLE", "")
        # Every execution uses up one of the sandboxes that stand ready.
        assert descendants(gateway) == sandboxes
        back = time.time()
    (task,) = await ended(client, task_id)
    assert task.state == COMPLETED
    await assert_ended_once(client, task)
    recorded = await full_trail(client, task)
    (result,) = entries_of(recorded, "TOOL_RESULT")
    assert result.said[1] == "COMPLETED"
    assert result.parts["result"]["at"] > back
    begun, withdrawn = told_of_calls(recorded)
    assert len(begun - withdrawn) == 1
    assert all(attempt.error.error_class == "AUDIT_UNAVAILABLE" for attempt in task.attempts[:-1])


async def refused_calls(client: Client, task_id: str) -> list[tool_call_pb2.ToolCall]:
    """The refused calls of a task."""
    found = await calls(client, task_id)
    return [each for each in found if each.status == tool_call_pb2.TOOL_CALL_STATUS_REFUSED]


def told_of_calls(recorded: list[Entry]) -> tuple[set[str], set[str]]:
    """The entries of calls that were about to start, and those of them that were withdrawn."""
    of_calls = entries_of(recorded, "TOOL_CALL")
    begun = {entry.fields["id"] for entry in of_calls if entry.said[1] == "RUNNING"}
    withdrawals = [entry for entry in of_calls if entry.said == ("TOOL_CALL", "REFUSED", "AUDIT_UNAVAILABLE")]
    assert len(begun) + len(withdrawals) >= len(of_calls)
    return begun, {entry.fields["attributes"]["withdraws"] for entry in withdrawals}


async def test_a_harmless_call_whose_gateway_is_killed_is_run_again(
    suite: RunningSuite, client: Client
) -> None:
    task_id = await submit(client, NAP.name, seconds=1.5)
    call = await running_call(client, task_id)
    await kill_gateway(suite)
    (task,) = await ended(client, task_id)
    assert task.state == COMPLETED
    await assert_ended_once(client, task)
    (again,) = await calls(client, task_id)
    assert again.call_id == call.call_id
    results = entries_of(await full_trail(client, task), "TOOL_RESULT")
    assert [entry.said[1] for entry in results] == ["UNKNOWN", "COMPLETED"]


async def test_of_a_call_that_must_not_run_twice_a_person_says_what_became_of_it(
    suite: RunningSuite, client: Client
) -> None:
    said = {
        "HAPPENED": {"decision": "HAPPENED", "output": {"told": "by a person"}},
        "REPEAT": {"decision": "REPEAT"},
        "FAIL": {"decision": "FAIL", "message": "not worth it"},
    }
    task_ids = {name: await submit(client, NAP_ONCE.name, seconds=3) for name in said}
    for task_id in task_ids.values():
        await running_call(client, task_id)
    await kill_gateway(suite)
    for name, answer in said.items():
        await answered(client, task_ids[name], answer)
    tasks = {task.task_id: task for task in await ended(client, *task_ids.values())}
    happened, repeated, failed = (tasks[task_ids[name]] for name in said)
    assert (happened.state, happened.result_json) == (COMPLETED, '{"told":"by a person"}')
    assert repeated.state == COMPLETED and "at" in json.loads(repeated.result_json)
    assert (failed.state, failed.error.error_class, failed.error.message) == (
        FAILED,
        "UNCERTAIN_STEP",
        "not worth it",
    )
    for name, task in zip(said, (happened, repeated, failed), strict=True):
        await assert_ended_once(client, task)
        statuses = [call.status for call in await calls(client, task.task_id)]
        again = [tool_call_pb2.TOOL_CALL_STATUS_COMPLETED] if name == "REPEAT" else []
        assert sorted(statuses) == sorted([tool_call_pb2.TOOL_CALL_STATUS_UNKNOWN, *again])
        recorded = await full_trail(client, task)
        began = [entry.said[1] for entry in entries_of(recorded, "TOOL_CALL")]
        assert began == ["RUNNING"] * len(statuses)
        decisions = [
            said for entry in recorded if (said := entry.fields.get("attributes", {}).get("decision"))
        ]
        assert [decision for decision in decisions if decision] == [name]


async def answered(client: Client, task_id: str, answer: object) -> None:
    """Say what became of the step, once the task asks."""

    async def asks() -> task_pb2.Task | None:
        task = await client.get(task_id)
        return task if task.state == task_pb2.TASK_STATE_INPUT_REQUIRED else None

    task = await eventually(asks, seconds=30)
    (request,) = task.input_requests
    assert task.input_kind == task_pb2.INPUT_KIND_UNCERTAIN_STEP and NAP_ONCE.tool in request.prompt
    provision = orchestrator_service_pb2.ProvideInputRequest(task_id=task_id, answer_json=json.dumps(answer))
    await client.tasks.ProvideInput(provision)


async def kill_gateway(suite: RunningSuite) -> None:
    """Kill it; what ran in its sandboxes goes with it."""
    pid = suite.pid("gateway")
    below = descendants(pid)
    assert below
    os.kill(pid, signal.SIGKILL)

    async def gone() -> bool:
        return not any(alive(each) for each in below)

    await eventually(gone, seconds=20)


async def test_known_agents_work_on_while_the_registry_is_dead(suite: RunningSuite, client: Client) -> None:
    with suite.without("registry"):
        task = await run(client, ECHO.name, value="known")
        assert (task.state, task.result_json, outcomes(task)) == (COMPLETED, '"known"', ["COMPLETED"])
        unknown = await refusal_of_unknown(suite)
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE")
        assert unknown.retry_after is not None

    async def is_told_as_unknown() -> bool:
        return (await refusal_of_unknown(suite)).reason == "AGENT_NOT_FOUND"

    await eventually(is_told_as_unknown)


async def refusal_of_unknown(suite: RunningSuite) -> RemoteError:
    """What a submit for an agent that does not exist is answered, at the first try."""
    async with suite.channel("orchestrator", suite.token("DEVELOPER")) as channel:
        stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)
        request = orchestrator_service_pb2.SubmitTaskRequest(agent="never-heard-of", input_json="{}")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SubmitTask(request)
    return RemoteError.of(refused.value)
