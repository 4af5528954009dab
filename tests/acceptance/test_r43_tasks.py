"""R43: tasks are stored, queued, run, retried, watched and listed."""

import asyncio
import json
import signal
import time
import uuid
from itertools import pairwise

import grpc
import psycopg
import pytest

from interlock.client import Client, InterlockError
from interlock.orchestrator.v1 import orchestrator_service_pb2, queue_service_pb2, task_pb2
from interlock.registry.v1 import agent_pb2, tool_pb2
from tests.acceptance.works import ECHO, LISTED, RAISES
from tests.e2e.catalogue import PURE, allow, duration, publish_agent, publish_tool
from tests.e2e.observing import (
    COMPLETED,
    FAILED,
    assert_ended_once,
    calls,
    ended,
    entries_of,
    eventually,
    full_trail,
    outcomes,
    run,
    steps,
    submit,
)
from tests.suite_running import Suite

SUBMITTED = task_pb2.TASK_STATE_SUBMITTED
RUNNING = task_pb2.TASK_STATE_RUNNING


async def test_R43_1_a_task_is_stored_with_all_its_metadata(client: Client) -> None:
    request_id = str(uuid.uuid4())
    submitted = await client.submit(
        RAISES.name, '{"value":1}', task_type="acceptance", labels={"team": "a"}, request_id=request_id
    )
    (task,) = await ended(client, submitted.task_id)
    assert uuid.UUID(task.task_id).version == 7
    assert (task.agent, task.agent_version, task.task_type) == (RAISES.name, "1.0.0", "acceptance")
    assert (task.input_json, dict(task.labels), task.submitter) == ('{"value":1}', {"team": "a"}, "tester")
    assert (task.state, task.retry_count, task.failures) == (FAILED, 0, 1)
    assert (task.error.error_class, task.error.message) == ("ValueError", "no use for 1")
    times = [moment.ToNanoseconds() for moment in (task.create_time, task.start_time, task.end_time)]
    assert 0 < times[0] <= times[1] <= times[2]
    other = await run(client, ECHO.name, value=[1, "zwei", None])
    assert (other.state, json.loads(other.result_json)) == (COMPLETED, [1, "zwei", None])
    assert not other.HasField("error")


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("agent = 'a' AND state = 'RUNNING'", "task_by_agent"),
        ("state = 'RUNNING' AND create_time > now() - interval '1 day'", "task_by_state"),
    ],
)
def test_R43_1_tasks_by_agent_and_status_and_by_status_and_time_are_found_by_an_index(
    suite: Suite, condition: str, index: str
) -> None:
    with suite.database("orchestrator") as connection:
        # A table of a test is so small that reading all of it would be faster.
        connection.execute("SET enable_seqscan = off")
        plan = "\n".join(
            str(line)
            for (line,) in connection.execute(
                f"EXPLAIN SELECT task_id FROM task WHERE tenant = 'default' AND {condition}"  # noqa: S608
                " ORDER BY create_time DESC, task_id DESC LIMIT 50"
            )
        )
    assert index in plan
    assert "Sort" not in plan


async def test_R43_2_a_submitted_task_is_durable_when_it_is_answered_and_the_answer_comes_at_once(
    suite: Suite, client: Client
) -> None:
    took = []
    with suite.database("orchestrator") as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchall() == [("on",)]
        for number in range(20):
            began = time.perf_counter()
            task_id = await submit(client, ECHO.name, value=number)
            took.append(time.perf_counter() - began)
            found = connection.execute("SELECT input FROM task WHERE task_id = %s", (task_id,)).fetchall()
            assert found == [(json.dumps({"value": number}, separators=(",", ":")),)]
    # Of twenty: how busy the machine of a test is says nothing about the product.
    assert min(took) < 0.1


async def test_R43_3_a_task_makes_only_legal_moves_and_a_terminal_state_never_changes(
    suite: Suite, client: Client
) -> None:
    legal = {(SUBMITTED, RUNNING), (RUNNING, COMPLETED), (RUNNING, FAILED), (RUNNING, RUNNING)}
    for task in (await run(client, ECHO.name, value=1), await run(client, RAISES.name, value=1)):
        told = await assert_ended_once(client, task)
        states = [SUBMITTED, *(event.state for event in told)]
        assert set(pairwise(states)) <= legal
        with pytest.raises(InterlockError) as refused:
            await client.cancel(task.task_id)
        assert refused.value.reason == "TASK_STATE"
        change = "UPDATE task SET state = 'RUNNING' WHERE task_id = %s"
        with suite.database("orchestrator") as database, pytest.raises(psycopg.Error, match="never changes"):
            database.execute(change, (task.task_id,))
        assert await client.get(task.task_id) == task


async def test_R43_4_a_queue_is_bounded_paused_limited_ordered_measured_and_emptied(client: Client) -> None:
    name = f"r43-4-{uuid.uuid4().hex[:8]}"
    made = queue_service_pb2.Queue(name=name, max_running=1, max_waiting=3)
    await client.call(client.queues.CreateQueue, queue_service_pb2.CreateQueueRequest(queue=made))
    await client.call(client.queues.PauseQueue, queue_service_pb2.PauseQueueRequest(name=name))
    low, high, middle = [
        (await client.submit(ECHO.name, '{"value":1}', queue=name, priority=priority)).task_id
        for priority in (1, 9, 5)
    ]
    with pytest.raises(InterlockError) as refused:
        await client.submit(ECHO.name, '{"value":1}', queue=name)
    assert (refused.value.reason, refused.value.retry_after is not None) == ("QUEUE_FULL", True)
    asked = queue_service_pb2.GetQueueRequest(name=name)
    queue = (await client.call(client.queues.GetQueue, asked)).queue
    assert (queue.paused, queue.stats.waiting, queue.stats.running) == (True, 3, 0)
    assert queue.stats.oldest_wait.ToNanoseconds() > 0
    await client.call(client.queues.ResumeQueue, queue_service_pb2.ResumeQueueRequest(name=name))
    first, second, third = await ended(client, high, middle, low)
    assert [each.state for each in (first, second, third)] == [COMPLETED] * 3
    for before, after in pairwise((first, second, third)):
        # The higher priority first, and never two at a time.
        assert before.end_time.ToNanoseconds() <= after.start_time.ToNanoseconds()
    await client.call(client.queues.PauseQueue, queue_service_pb2.PauseQueueRequest(name=name))
    left = [(await client.submit(ECHO.name, '{"value":1}', queue=name)).task_id for _ in range(2)]
    purge = queue_service_pb2.PurgeQueueRequest(name=name)
    assert (await client.call(client.queues.PurgeQueue, purge)).purged == 2
    assert {each.state for each in await ended(client, *left)} == {task_pb2.TASK_STATE_CANCELED}


async def test_R43_5_results_also_large_ones_are_read_again_after_restarts(
    suite: Suite, client: Client
) -> None:
    large = "ä" * 60_000
    task = await run(client, ECHO.name, value=large)
    assert json.loads(task.result_json) == large
    for process in ("postgres", "orchestrator"):
        await asyncio.to_thread(suite.ask, op="restart", process=process)

    async def read() -> task_pb2.Task | None:
        try:
            return await client.get(task.task_id)
        except InterlockError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    assert await eventually(read) == task


async def test_R43_6_a_task_goes_from_submit_over_worker_agent_and_tools_to_its_result(
    client: Client,
) -> None:
    sources = {
        "acc_parse": "def run(text):\n    return [int(part) for part in text.split(',')]\n",
        "acc_total": "def run(numbers):\n    return {'sum': sum(numbers), 'count': len(numbers)}\n",
    }
    for name, source in sources.items():
        spec = tool_pb2.ToolSpec(
            title=name,
            description="One step of a flow.",
            input_schema_json='{"type": "object"}',
            python=tool_pb2.PythonTool(source=source),
            side_effect=PURE,
        )
        await publish_tool(client, name, spec)
    plan = agent_pb2.PlanRuntime(
        steps=[
            agent_pb2.PlanStep(key="parse", tool="acc_parse", arguments={"text": "input.text"}),
            agent_pb2.PlanStep(key="total", tool="acc_total", arguments={"numbers": "steps.parse"}),
        ],
        result="{total: steps.total.sum, of: steps.total.count}",
    )
    agent = agent_pb2.AgentSpec(
        description="Adds up.",
        capabilities=["text.sum"],
        tools=[agent_pb2.ToolBinding(tool=name) for name in sources],
        plan=plan,
    )
    await publish_agent(client, "acc-flow", agent)
    for name in sources:
        await allow(client, "acc-flow", name, policy_id=f"acc-flow-{name[4:]}")
    task = await run(client, "acc-flow", text="1,2,39")
    assert (task.state, json.loads(task.result_json)) == (COMPLETED, {"total": 42, "of": 3})
    assert [(step.step_key, json.loads(step.output_json)) for step in await steps(client, task.task_id)] == [
        ("parse", [1, 2, 39]),
        ("total", {"sum": 42, "count": 3}),
    ]
    assert {call.isolation for call in await calls(client, task.task_id)} <= {"STANDARD", "FULL"}
    said = [entry.said[0] for entry in await full_trail(client, task)]
    assert (said.count("PROMPT"), said.count("TOOL_CALL"), said.count("TOOL_RESULT")) == (1, 2, 2)
    assert said.count("RESULT") == 1


async def test_R43_7_status_updates_reach_a_watcher_in_real_time_and_in_order(
    suite: Suite, client: Client
) -> None:
    # While the worker stands still nothing happens to the task: all that follows is seen as it happens.
    with suite.hanging("worker"):
        task_id = await submit(client, ECHO.name, value=1)
        watch = client.watch(task_id)
        first = (await anext(watch)).snapshot
        assert (first.state, first.revision) == (SUBMITTED, 1)
    seen = []
    lags = []
    async for update in watch:
        lags.append(time.time() - update.event.time.ToNanoseconds() / 1e9)
        seen.append(update.event)
    assert [event.revision for event in seen] == list(range(2, len(seen) + 2))
    assert [(event.type, event.state) for event in seen] == [
        (task_pb2.EVENT_TYPE_STATE_CHANGED, RUNNING),
        (task_pb2.EVENT_TYPE_STEP_STARTED, RUNNING),
        (task_pb2.EVENT_TYPE_STEP_FINISHED, RUNNING),
        (task_pb2.EVENT_TYPE_STATE_CHANGED, COMPLETED),
    ]
    assert min(lags) < 0.5


async def test_R43_7_a_watch_is_taken_up_again_after_any_revision(client: Client) -> None:
    task = await run(client, ECHO.name, value=1)
    whole = await assert_ended_once(client, task)
    for after in range(1, task.revision):
        again = [update.event async for update in client.watch(task.task_id, after_revision=after)]
        assert again == whole[after - 1 :]


async def test_R43_8_every_attempts_error_is_kept_and_retries_back_off(client: Client) -> None:
    spec = agent_pb2.AgentSpec(
        description="Runs nowhere: no worker has its code.",
        capabilities=["testing"],
        python=agent_pb2.PythonRuntime(entry_point="acc-not-installed"),
        retry=agent_pb2.RetryPolicy(
            max_failures=3, initial_interval=duration(0.3), maximum_interval=duration(5), coefficient=2
        ),
    )
    await publish_agent(client, "acc-missing", spec)
    task = await run(client, "acc-missing")
    assert (task.state, task.failures, task.retry_count) == (FAILED, 3, 2)
    assert outcomes(task) == ["FAILED"] * 3
    for attempt in task.attempts:
        assert attempt.error.error_class == "AGENT_MISSING"
        assert "acc-not-installed" in attempt.error.message
    waits = [
        (later.start_time.ToNanoseconds() - earlier.end_time.ToNanoseconds()) / 1e9
        for earlier, later in pairwise(task.attempts)
    ]
    # 0.3 s and 0.6 s, each spread by up to a fifth either way.
    assert waits[0] >= 0.24
    assert waits[1] >= 0.48
    told = await assert_ended_once(client, task)
    reasons = [event.wait_reason for event in told if event.state == SUBMITTED]
    assert reasons == [task_pb2.WAIT_REASON_RETRY_BACKOFF] * 2
    recorded = entries_of(await full_trail(client, task), "ERROR")
    assert [entry.fields["attempt"] for entry in recorded] == [1, 2, 3]


@pytest.mark.chaos
async def test_R43_8_well_formed_tasks_succeed_under_faults(suite: Suite, client: Client) -> None:
    submitting = [asyncio.create_task(submit(client, ECHO.name, value=number)) for number in range(60)]
    for number, process in ((10, "worker"), (25, "orchestrator"), (40, "gateway")):
        await submitting[number]
        suite.send(process, signal.SIGKILL)
    tasks = await ended(client, *await asyncio.gather(*submitting))
    succeeded = [task for task in tasks if task.state == COMPLETED]
    assert len(succeeded) / len(tasks) > 0.95, {task.error.error_class for task in tasks}


async def test_R43_9_the_tasks_of_an_agent_are_listed_paged_and_filtered(client: Client) -> None:
    await run(client, ECHO.name, value="of another agent")
    task_ids = [await submit(client, LISTED.name, value=number) for number in range(5)]
    await ended(client, *task_ids)
    canceled = (await client.submit(LISTED.name, '{"value":9}', task_type="special")).task_id
    await ended(client, canceled)

    async def pages(wanted: str) -> list[list[str]]:
        found: list[list[str]] = []
        token = ""
        while True:
            request = orchestrator_service_pb2.ListTasksRequest(page_size=2, page_token=token, filter=wanted)
            answer = await client.call(client.tasks.ListTasks, request)
            found.append([task.task_id for task in answer.tasks])
            token = answer.next_page_token
            if not token:
                return found

    of_agent = f'agent = "{LISTED.name}"'
    newest_first = [canceled, *reversed(task_ids)]
    assert await pages(of_agent) == [newest_first[0:2], newest_first[2:4], newest_first[4:6]]
    assert await pages(f'{of_agent} AND state = "COMPLETED"') == await pages(of_agent)
    assert await pages(f'{of_agent} AND state = "FAILED"') == [[]]
    assert await pages(f'{of_agent} AND task_type = "special"') == [[canceled]]
