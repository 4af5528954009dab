"""Tasks made from old ones: RetryTask from a step, and dead letters redriven."""

import asyncio
import json
import uuid
from collections.abc import Sequence

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from interlock.registry.v1 import agent_pb2
from orchestrator_svc.store.repeats import RepeatStore
from tests.orchestrator.peers import AGENT
from tests.orchestrator.worker import Session, Worker
from tests.orchestrator.world import World, refused

ONCE = agent_pb2.RetryPolicy(max_failures=1)


async def dead_letter(world: World, worker: Worker, session: Session, **fields: object) -> task_pb2.Task:
    task = await world.submit(retry=ONCE, **fields)
    assert await worker.fail(await worker.must_claim(session)) == task_pb2.TASK_STATE_FAILED
    return task


async def redrive(world: World, **fields: object) -> messages.RedriveTasksResponse:
    return await world.people().RedriveTasks(messages.RedriveTasksRequest(**fields))  # type: ignore[arg-type]


async def test_a_task_retried_from_a_step_takes_over_the_finished_steps_before_it(world: World) -> None:
    task = await world.submit(labels={"team": "a"}, retry=ONCE)
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        for n in range(3):
            await worker.record(claimed, worker.finished(await worker.begin(claimed, f"step-{n}"), n))
        await worker.fail(claimed)
        asked = messages.RetryTaskRequest(
            task_id=task.task_id, from_step="step-2", request_id=str(uuid.uuid4())
        )
        new = (await world.people().RetryTask(asked)).task
        assert (new.retried_from, new.from_step, new.labels) == (task.task_id, "step-2", task.labels)
        assert (await world.people().RetryTask(asked)).task == new
        again = await worker.must_claim(session)
        assert (again.task_id, list(again.finished_steps)) == (new.task_id, ["step-0", "step-1"])
        assert (await worker.begin(again, "step-1")).recorded.step.output_json == "1"
        third = await worker.begin(again, "step-2")
        assert third.HasField("start")
        await worker.complete(again, finish=worker.finished(third, "anew"))
    steps = await world.people().ListTaskSteps(messages.ListTaskStepsRequest(task_id=new.task_id))
    assert [(step.step_key, step.ordinal, step.attempt) for step in steps.steps] == [
        ("step-0", 1, 0),
        ("step-1", 2, 0),
        ("step-2", 3, 1),
    ]
    unknown = messages.RetryTaskRequest(task_id=task.task_id, from_step="step-9")
    error = await refused(world.people().RetryTask(unknown))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "STEP_NOT_FOUND")


async def test_dead_letters_are_redriven_once_and_a_repeat_of_the_request_answers_the_same(
    world: World,
) -> None:
    worker = world.worker()
    async with worker.session() as session:
        dead = [await dead_letter(world, worker, session, task_type=word) for word in ("a", "a", "b")]
        for_good = await world.submit()
        await worker.fail(await worker.must_claim(session), retryable=False)
    assert not (await world.get(for_good.task_id)).dead_lettered
    counted = await redrive(world, validate_only=True)
    assert (counted.count, list(counted.task_ids)) == (3, [])
    request_id = str(uuid.uuid4())
    asked = {"filter": 'task_type = "a"', "request_id": request_id, "max_tasks": 1}
    first = await redrive(world, **asked)
    assert (first.count, first.more) == (1, True)
    assert list((await redrive(world, **asked)).task_ids) == list(first.task_ids)
    other = messages.RedriveTasksRequest(request_id=request_id)
    error = await refused(world.people().RedriveTasks(other))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    both = await asyncio.gather(redrive(world), redrive(world))
    new = [*first.task_ids, *both[0].task_ids, *both[1].task_ids]
    assert sorted([(await world.get(each)).retried_from for each in new]) == sorted(
        task.task_id for task in dead
    )
    assert (await redrive(world)).count == 0
    listed = await world.people().ListTasks(messages.ListTasksRequest(filter="dead_lettered = true"))
    assert len(listed.tasks) == 3


async def test_dead_letters_of_agents_that_are_not_active_stay(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        await dead_letter(world, worker, session)
    world.peers.registry.disable(AGENT)
    await world.until_refused()
    answer = await redrive(world)
    assert (answer.count, answer.inactive) == (0, 1)


async def test_of_dead_letters_only_the_inputs_that_are_stored_again_are_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[uuid.UUID]] = []
    stored = RepeatStore.inputs

    async def inputs(self: RepeatStore, tenant: str, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        read.append(list(task_ids))
        return await stored(self, tenant, task_ids)

    monkeypatch.setattr(RepeatStore, "inputs", inputs)
    monkeypatch.setattr("orchestrator_svc.repeats._MAX_INPUT_BYTES", 2_000)
    worker = world.worker()
    async with worker.session() as session:
        dead = [
            await dead_letter(world, worker, session, input_json=json.dumps({"path": "x" * 900}))
            for _ in range(3)
        ]
    asked = await redrive(world, validate_only=True)
    assert (asked.count, asked.more, read) == (2, True, [])
    made = await redrive(world)
    assert (len(made.task_ids), made.more) == (2, True)
    assert read == [[uuid.UUID(task.task_id) for task in dead[:2]]]


async def test_everything_wrong_with_a_redrive_is_told(world: World) -> None:
    for fields, field in (
        ({"max_tasks": 501}, "max_tasks"),
        ({"request_id": "no"}, "request_id"),
        ({"filter": "nothing = 1"}, "filter"),
    ):
        error = await refused(world.people().RedriveTasks(messages.RedriveTasksRequest(**fields)))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.violations[0].field == field


async def test_many_redrives_at_once_leave_the_others_their_connections(world: World) -> None:
    # More than there are connections: whoever waits with one would keep it from whose turn it is.
    async with asyncio.timeout(4):
        answers = await asyncio.gather(*(redrive(world) for _ in range(20)))
    assert [answer.count for answer in answers] == [0] * 20
