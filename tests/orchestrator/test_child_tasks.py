"""Child tasks: made once with their step, awaited without a slot, bounded, and ended with their parents."""

import json
import uuid
from datetime import UTC
from typing import Any

import psycopg
import pytest

from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as work
from tests.orchestrator.peers import AGENT, INPUT_SCHEMA, spec
from tests.orchestrator.worker import Session, Worker
from tests.orchestrator.world import World, refused

HELPER = "helper"
CHILDREN = task_pb2.WAIT_REASON_CHILDREN
SUBMITTED, RUNNING = task_pb2.TASK_STATE_SUBMITTED, task_pb2.TASK_STATE_RUNNING
CANCELING, CANCELED = task_pb2.TASK_STATE_CANCELING, task_pb2.TASK_STATE_CANCELED
ABANDON = work.ChildTask(close_policy=task_pb2.CLOSE_POLICY_ABANDON)


@pytest.fixture
def world(world: World) -> World:
    world.peers.registry.publish(HELPER, content=spec(input_schema_json=json.dumps(INPUT_SCHEMA)))
    return world


async def submit(
    worker: Worker,
    claimed: work.ClaimedTask,
    key: str = "child",
    *,
    agent: str = HELPER,
    given: Any = None,
    child: work.ChildTask | None = None,
) -> work.RecordStepResponse:
    begin = work.BeginStep(
        step_key=key,
        kind=task_pb2.STEP_KIND_CHILD_TASK,
        name=agent,
        input_json=json.dumps(given if given is not None else {"path": "b.csv"}),
        child=child,
    )
    return await worker.stub.RecordStep(
        work.RecordStepRequest(attempt_token=claimed.attempt_token, begin=begin)
    )


async def awaited(worker: Worker, claimed: work.ClaimedTask, *keys: str) -> list[str]:
    answer = await worker.stub.AwaitChildren(
        work.AwaitChildrenRequest(attempt_token=claimed.attempt_token, step_keys=keys or ["child"])
    )
    return list(answer.ended)


async def parent(world: World, worker: Worker, session: Session) -> tuple[str, work.ClaimedTask]:
    task = await world.submit()
    claimed = await worker.must_claim(session)
    assert claimed.task_id == task.task_id
    return task.task_id, claimed


async def listed(world: World, text: str) -> set[str]:
    answer = await world.people().ListTasks(messages.ListTasksRequest(filter=text))
    return {task.task_id for task in answer.tasks}


async def test_a_child_task_is_made_once_with_its_step_and_stands_in_the_tree(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, claimed = await parent(world, worker, session)
        begun = await submit(worker, claimed, child=work.ChildTask(task_type="part", labels={"n": "1"}))
        assert await submit(worker, claimed) == begun
        child_id = begun.start.call_id
        assert child_id == str(uuid.uuid5(uuid.UUID(task_id), "child"))
        assert not begun.start.HasField("permit")
        child = await world.get(child_id)
        assert (child.agent, child.state, child.task_type, dict(child.labels)) == (
            HELPER,
            SUBMITTED,
            "part",
            {"n": "1"},
        )
        assert (child.parent_task_id, child.root_task_id, child.depth) == (task_id, task_id, 1)
        assert child.close_policy == task_pb2.CLOSE_POLICY_CANCEL and child.submitter == f"agent:{AGENT}"
        above = await world.get(task_id)
        assert (above.parent_task_id, above.root_task_id, above.depth) == ("", task_id, 0)
        assert (above.child_count, above.open_child_count) == (1, 1)
        second = await worker.must_claim(session)
        grandchild = (await submit(worker, second)).start.call_id
    answer = await world.people().ListChildTasks(messages.ListChildTasksRequest(task_id=task_id))
    assert [each.task_id for each in answer.tasks] == [child_id]
    assert await listed(world, f'parent_task_id = "{child_id}"') == {grandchild}
    assert await listed(world, f"root_task_id = {task_id}") == {task_id, child_id, grandchild}
    assert await listed(world, f"root_task_id != {task_id}") == set()
    nobody = messages.ListChildTasksRequest(task_id=str(uuid.uuid4()))
    assert (await refused(world.people().ListChildTasks(nobody))).reason == "TASK_NOT_FOUND"
    trail = await world.peers.audit.of_task(child_id, 2)
    assert trail[0].actor == f"agent:{AGENT}"


async def test_a_parent_waits_without_a_slot_and_goes_on_with_the_childs_result(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, first = await parent(world, worker, session)
        await submit(worker, first)
        assert await awaited(worker, first) == []
        assert await awaited(worker, first) == [], "a repeat of what was answered"
        waiting = await world.get(task_id)
        assert (waiting.state, waiting.wait_reason) == (SUBMITTED, CHILDREN)
        assert not waiting.HasField("run_after") and waiting.attempts[0].outcome == "PARKED"
        child = await worker.must_claim(session)
        assert child.task_id != task_id
        await worker.complete(child, {"rows": 7})
        again = await worker.must_claim(session)
        assert (again.task_id, again.attempt) == (task_id, 2)
        await submit(worker, again)
        assert await awaited(worker, again) == ["child"]
        recorded = (await submit(worker, again)).recorded.step
        assert (recorded.status, recorded.output_json) == (task_pb2.STEP_STATUS_COMPLETED, '{"rows":7}')
        await worker.complete(again)
    done = await world.get(task_id)
    assert (done.failures, done.crashes, done.open_child_count) == (0, 0, 0)
    begun = [e for e in await world.history(task_id) if e.type == task_pb2.EVENT_TYPE_STEP_STARTED]
    assert len(begun) == 1, "an attempt that finds its child begun tells nothing new"


async def test_a_failed_or_canceled_child_finishes_its_step_with_its_error(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        _, first = await parent(world, worker, session)
        await submit(worker, first, "one")
        child = await worker.must_claim(session)
        await worker.fail(child, "ValueError", retryable=False)
        gone = (await submit(worker, first, "two")).start.call_id
        await world.people().CancelTask(messages.CancelTaskRequest(task_id=gone))
        assert await awaited(worker, first, "one", "two") == ["one", "two"]
        one = (await submit(worker, first, "one")).recorded.step
        two = (await submit(worker, first, "two")).recorded.step
        assert (one.status, one.error.error_class, one.error.message) == (
            task_pb2.STEP_STATUS_FAILED,
            "ValueError",
            "it broke",
        )
        assert (two.status, two.error.error_class) == (task_pb2.STEP_STATUS_FAILED, "CHILD_CANCELED")
        await worker.complete(first)


async def test_children_end_with_their_parent_over_generations_unless_they_were_abandoned(
    world: World,
) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, first = await parent(world, worker, session)
        running = (await submit(worker, first, "running")).start.call_id
        second = await worker.must_claim(session)
        below = (await submit(worker, second, "below")).start.call_id
        waiting = (await submit(worker, first, "waiting")).start.call_id
        abandoned = (await submit(worker, first, "abandoned", child=ABANDON)).start.call_id
        assert await awaited(worker, first, "waiting") == []
        await world.people().CancelTask(messages.CancelTaskRequest(task_id=task_id))
        await world.until(waiting, CANCELED)
        await world.until(running, CANCELING)
        await world.until(below, CANCELED)
        await worker.fail(second, "CANCELED", retryable=False)
        await world.until(running, CANCELED)
        assert (await world.get(abandoned)).state == SUBMITTED
        assert (await world.get(task_id)).open_child_count == 1


async def test_children_of_a_parent_that_completes_or_fails_are_canceled(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        _, first = await parent(world, worker, session)
        one = (await submit(worker, first)).start.call_id
        await worker.complete(first)
        await world.until(one, CANCELED)
        _, second = await parent(world, worker, session)
        two = (await submit(worker, second)).start.call_id
        await worker.fail(second, retryable=False)
        await world.until(two, CANCELED)


async def test_the_permits_of_a_child_name_every_agent_above_it_and_who_is_at_the_top(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        _, first = await parent(world, worker, session)
        await submit(worker, first)
        child = await worker.must_claim(session)
        await submit(worker, child, "deeper", agent=AGENT)
        deeper = await worker.must_claim(session)
        begun = await worker.begin(deeper)
    permit = permit_pb2.StepPermit.FromString(begun.start.permit.payload)
    assert [
        (each.subject, each.agent, each.agent_version, list(each.roles)) for each in permit.submitters
    ] == [
        (f"agent:{HELPER}", HELPER, "1.0.0", []),
        (f"agent:{AGENT}", AGENT, "1.0.0", []),
        ("ada@example.org", "", "", ["DEVELOPER"]),
    ]


async def test_depth_and_number_of_children_are_bounded(still_world: World) -> None:
    still_world.peers.registry.publish(HELPER)
    async with still_world.serving(child_depth_limit=2, children_limit=2, tree_limit=3) as world:
        worker = world.worker()
        async with worker.session() as session:
            _, first = await parent(world, worker, session)
            await submit(worker, first, "one")
            await submit(worker, first, "two")
            error = await refused(submit(worker, first, "three"))
            assert (error.reason, error.metadata["scope"], error.metadata["limit"]) == (
                "TOO_MANY_CHILDREN",
                "parent",
                "2",
            )
            assert (await submit(worker, first, "two")).HasField("start"), "what is begun stays begun"
            child = await worker.must_claim(session)
            await submit(worker, child, "one")
            error = await refused(submit(worker, child, "two"))
            assert (error.reason, error.metadata["scope"]) == ("TOO_MANY_CHILDREN", "root")
            await worker.must_claim(session)
            grandchild = await worker.must_claim(session)
            error = await refused(submit(worker, grandchild))
            assert (error.reason, error.metadata["depth"]) == ("CHILD_TOO_DEEP", "3")


async def test_a_child_that_cannot_be_is_refused_with_the_reason_and_leaves_nothing(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, first = await parent(world, worker, session)
        assert (await refused(submit(worker, first, agent="nobody"))).reason == "AGENT_NOT_FOUND"
        error = await refused(submit(worker, first, given={"rows": 0}))
        assert error.reason == "INVALID_FIELDS"
        error = await refused(submit(worker, first, agent="No Agent", child=work.ChildTask(task_type="%")))
        assert error.reason == "INVALID_FIELDS"
        assert (await refused(awaited(worker, first, "child"))).reason == "STEP_NOT_FOUND"
        assert (await refused(awaited(worker, first, "bad key"))).reason == "INVALID_FIELDS"
        assert (await world.get(task_id)).child_count == 0
        begun = await submit(worker, first)
        world.peers.registry.disable(HELPER)
        await world.until_refused(agent=HELPER)
        assert await submit(worker, first) == begun, "what has begun does not depend on the registry"


async def test_a_replica_that_was_away_when_a_child_ended_makes_up_for_it(still_world: World) -> None:
    still_world.peers.registry.publish(HELPER)
    async with still_world.serving() as world:
        worker = world.worker()
        async with worker.session() as session:
            task_id, first = await parent(world, worker, session)
            child_id = (await submit(worker, first)).start.call_id
            assert await awaited(worker, first) == []
    # As if the process had died between the end of the child and the look at its parent.
    async with await psycopg.AsyncConnection.connect(still_world.database.owner_url) as connection:
        await connection.execute(
            "UPDATE task SET state = 'CANCELED', wait_reason = NULL, end_time = now() WHERE task_id = %s",
            (child_id,),
        )
    async with still_world.serving() as world:
        worker = world.worker()
        async with worker.session() as session:
            again = await worker.must_claim(session)
            assert (again.task_id, again.attempt) == (task_id, 2)


async def test_a_child_has_no_more_time_than_its_parent_has_left(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, first = await parent(world, worker, session)
        async with await psycopg.AsyncConnection.connect(world.database.owner_url) as connection:
            await connection.execute(
                "UPDATE task SET expires = '2100-01-01T00:00:00Z' WHERE task_id = %s", (task_id,)
            )
        child_id = (await submit(worker, first)).start.call_id
        async with await psycopg.AsyncConnection.connect(world.database.owner_url) as connection:
            row = await connection.execute("SELECT expires FROM task WHERE task_id = %s", (child_id,))
            found = await row.fetchone()
        assert found is not None and found[0].astimezone(UTC).year == 2100
