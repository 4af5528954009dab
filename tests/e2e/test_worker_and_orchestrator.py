"""Workers and orchestrators die and come back; the tasks do not notice more than they must."""

import asyncio
import os
import signal

import pytest

from interlock.client import Client
from interlock.orchestrator.v1 import task_pb2
from tests.command_line import interlock
from tests.e2e.observing import (
    COMPLETED,
    assert_ended_once,
    calls,
    ended,
    entries_of,
    eventually,
    full_trail,
    outcomes,
    running_call,
    submit,
)
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO, NAP, NAPS

pytestmark = pytest.mark.chaos


async def test_a_task_whose_worker_is_killed_runs_again_and_ends_once(
    suite: RunningSuite, client: Client
) -> None:
    task_id = await submit(client, NAP.name, seconds=1.5)
    call = await running_call(client, task_id)
    suite.send("worker", signal.SIGKILL)
    (task,) = await ended(client, task_id)
    assert (task.state, outcomes(task)) == (COMPLETED, ["LOST", "COMPLETED"])
    assert (task.retry_count, task.crashes, task.failures) == (1, 1, 0)
    told = await assert_ended_once(client, task)
    assert {event.attempt for event in told} == {1, 2}
    # The second attempt asked for the same call, which had gone on meanwhile: nothing ran twice.
    assert [each.call_id for each in await calls(client, task_id)] == [call.call_id]
    recorded = await full_trail(client, task)
    assert [entry.said[1] for entry in entries_of(recorded, "TOOL_CALL")] == ["RUNNING"]
    assert [entry.said[1] for entry in entries_of(recorded, "TOOL_RESULT")] == ["COMPLETED"]


async def test_canceling_a_task_ends_the_tool_that_it_runs(client: Client) -> None:
    task_id = await submit(client, NAP.name, seconds=18)
    await running_call(client, task_id)
    await client.cancel(task_id)
    (task,) = await ended(client, task_id)
    assert (task.state, outcomes(task)) == (task_pb2.TASK_STATE_CANCELED, ["CANCELED"])
    recorded = await full_trail(client, task)
    # Long before the tool would have ended by itself.
    assert [entry.said[1:3] for entry in entries_of(recorded, "TOOL_RESULT")] == [("FAILED", "TOOL_CANCELED")]


async def test_a_task_is_paused_between_two_steps_and_goes_on_from_there_at_the_word_of_a_person(
    suite: RunningSuite, client: Client
) -> None:
    def say(*arguments: str) -> str:
        return interlock("--data-dir", str(suite.folder.root), *arguments).stdout

    task_id = await submit(client, NAPS.name, seconds=0.5)
    await running_call(client, task_id)
    assert "winds up" in await asyncio.to_thread(say, "pause", task_id)

    async def stands_still() -> task_pb2.Task | None:
        task = await client.get(task_id)
        return task if task.state == task_pb2.TASK_STATE_PAUSED else None

    paused = await eventually(stands_still, seconds=20)
    # The step that ran has ended, and no other has begun.
    assert outcomes(paused) == ["PAUSED"]
    before = await calls(client, task_id)
    assert len(before) < NAPS.steps
    await asyncio.to_thread(say, "resume", task_id)
    (task,) = await ended(client, task_id)
    assert (task.state, outcomes(task), task.failures) == (COMPLETED, ["PAUSED", "COMPLETED"], 0)
    assert len({call.call_id for call in await calls(client, task_id)}) == NAPS.steps
    await assert_ended_once(client, task)


async def test_a_task_that_was_answered_runs_although_the_orchestrator_is_killed_at_once(
    suite: RunningSuite, client: Client
) -> None:
    pid = suite.pid("orchestrator")
    task_id = await submit(client, ECHO.name, value="durable")
    os.kill(pid, signal.SIGKILL)
    (task,) = await ended(client, task_id)
    assert (task.state, task.result_json) == (COMPLETED, '"durable"')
    await assert_ended_once(client, task)


async def test_many_tasks_end_once_each_although_the_orchestrator_is_killed_while_they_come_and_go(
    suite: RunningSuite, client: Client
) -> None:
    pid = suite.pid("orchestrator")
    submitting = [asyncio.create_task(submit(client, ECHO.name, value=number)) for number in range(40)]
    await submitting[10]
    os.kill(pid, signal.SIGKILL)
    task_ids = await asyncio.gather(*submitting)
    assert len(set(task_ids)) == 40
    tasks = await ended(client, *task_ids)
    assert [task.result_json for task in tasks] == [str(number) for number in range(40)]
    for task in tasks:
        # Not even one whose claim was committed, and the answer to it lost.
        assert outcomes(task) == ["COMPLETED"]
        await assert_ended_once(client, task)


async def test_a_restarted_orchestrator_finds_the_attempt_of_before(
    suite: RunningSuite, client: Client
) -> None:
    task_id = await submit(client, NAP.name, seconds=4)
    await running_call(client, task_id)
    await asyncio.to_thread(suite.ask, op="restart", process="orchestrator")
    (task,) = await ended(client, task_id)
    assert (task.state, outcomes(task)) == (COMPLETED, ["COMPLETED"])
    await assert_ended_once(client, task)


async def test_a_watch_sees_every_revision_once_over_restarts_of_the_orchestrator(
    suite: RunningSuite, client: Client
) -> None:
    task_id = await submit(client, NAPS.name, seconds=1)
    interruptions: list[int] = []
    revisions = []
    restarts = [signal.SIGTERM, signal.SIGKILL]
    watch = client.watch(task_id, interrupted=lambda _, revision: interruptions.append(revision))
    async for update in watch:
        changed = update.snapshot if update.HasField("snapshot") else update.event
        revisions.append(changed.revision)
        if (
            restarts
            and update.HasField("event")
            and update.event.step.step_key == f"s{len(restarts) * 2 - 1}"
        ):
            suite.send("orchestrator", restarts.pop())
    task = await client.get(task_id)
    assert interruptions
    assert revisions == list(range(revisions[0], task.revision + 1))
    assert (task.state, outcomes(task)) == (COMPLETED, ["COMPLETED"])
    await assert_ended_once(client, task)
