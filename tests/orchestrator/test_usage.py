"""What model calls used up: by the gateway's word alone, each call once, over all attempts."""

import pytest

from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from interlock.registry.v1 import agent_pb2
from svc_kit.identity import Role
from tests.orchestrator.peers import TENANT, spec
from tests.orchestrator.worker import Worker
from tests.orchestrator.world import World, refused


def used(tokens_in: int, tokens_out: int, cost: int) -> tool_call_pb2.ModelUsage:
    return tool_call_pb2.ModelUsage(input_tokens=tokens_in, output_tokens=tokens_out, cost_micros=cost)


def total(calls: int, tokens_in: int, tokens_out: int, cost: int) -> task_pb2.TaskUsage:
    return task_pb2.TaskUsage(
        model_calls=calls, input_tokens=tokens_in, output_tokens=tokens_out, cost_micros=cost
    )


@pytest.fixture
async def task(world: World) -> task_pb2.Task:
    """Of an agent that asks a model."""
    runtime = agent_pb2.LlmRuntime(instructions="Help.", connection="provider", model="small")
    world.peers.registry.publish("helper", content=spec(llm=runtime))
    return await world.submit(agent="helper")


async def begin(
    worker: Worker, claimed: worker_service_pb2.ClaimedTask, key: str
) -> worker_service_pb2.RecordStepResponse:
    asked: dict[str, list[str]] = {"messages": []}
    return await worker.begin(claimed, key, asked, tool="provider", kind=task_pb2.STEP_KIND_MODEL_CALL)


async def called(
    worker: Worker, claimed: worker_service_pb2.ClaimedTask, key: str, usage: tool_call_pb2.ModelUsage
) -> worker_service_pb2.FinishStep:
    """A model call that was answered; its end is not recorded yet."""
    begun = await begin(worker, claimed, key)
    return worker.finished(begun, {"text": "yes"}, usage=usage)


async def test_the_sum_goes_over_attempts_and_a_call_that_is_told_twice_counts_once(
    world: World, task: task_pb2.Task
) -> None:
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        first = await called(worker, claimed, "m1", used(10, 3, 100))
        await worker.record(claimed, first)
        # The answer was lost on its way, and the worker says it again.
        await worker.record(claimed, first)
        # This attempt ends before the end of its second call is recorded.
        lost = await called(worker, claimed, "m2", used(20, 4, 200))
        await worker.release(claimed)
        again = await worker.must_claim(session)
        taken = await begin(worker, again, "m1")
        assert taken.HasField("recorded")
        error = await refused(worker.stub.RecordStep(_finish(claimed, lost)))
        assert error.reason == "STALE_ATTEMPT"
        await begin(worker, again, "m2")
        # The gateway has the stored answer for it, with the same receipt.
        await worker.complete(again, finish=lost)
    got = await world.get(task.task_id)
    assert (got.attempt, got.usage) == (2, total(2, 30, 7, 300))
    history = await world.history(task.task_id)
    sums = [event.usage.input_tokens for event in history]
    assert (sums, sums[0], sums[-1]) == (sorted(sums), 0, 30)
    (listed,) = (
        await world.people(Role.VIEWER).ListTasks(messages.ListTasksRequest(filter='agent = "helper"'))
    ).tasks
    assert listed.usage == got.usage


async def test_a_worker_that_makes_up_a_usage_is_refused_and_nothing_is_counted(
    world: World, task: task_pb2.Task
) -> None:
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        finish = await called(worker, claimed, "m1", used(10, 3, 100))
        receipt = tool_call_pb2.Receipt.FromString(finish.receipt.payload)
        assert receipt.tenant == TENANT
        receipt.usage.CopyFrom(used(1, 0, 0))
        finish.receipt.payload = receipt.SerializeToString()
        assert (await refused(worker.stub.RecordStep(_finish(claimed, finish)))).reason == "SIGNATURE_INVALID"
    assert not (await world.get(task.task_id)).HasField("usage")


async def test_whoever_watches_tasks_gets_the_sum_with_the_list_and_with_every_change(
    world: World, task: task_pb2.Task
) -> None:
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await worker.record(claimed, await called(worker, claimed, "m1", used(10, 3, 100)))
        watch = aiter(world.people(Role.VIEWER).WatchTasks(messages.WatchTasksRequest()))
        (listed,) = (await anext(watch)).snapshot.tasks
        assert (listed.task_id, listed.usage) == (task.task_id, total(1, 10, 3, 100))
        await worker.complete(claimed, finish=await called(worker, claimed, "m2", used(1, 1, 1)))
        told: list[task_pb2.TaskEvent] = []
        while not told or told[-1].state != task_pb2.TASK_STATE_COMPLETED:
            told += [change.event for change in (await anext(watch)).changes.changes]
    assert [event.usage.model_calls for event in told] == [1, 2, 2]


def _finish(
    claimed: worker_service_pb2.ClaimedTask, finish: worker_service_pb2.FinishStep
) -> worker_service_pb2.RecordStepRequest:
    return worker_service_pb2.RecordStepRequest(attempt_token=claimed.attempt_token, finish=finish)
