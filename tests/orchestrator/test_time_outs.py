"""The clocks on a task, the grace of a cancel and a pause, and what a submitter sets apart."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from interlock.audit.v1 import entry_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from interlock.registry.v1 import agent_pb2
from tests.orchestrator.world import World, refused, request

FAILED = task_pb2.TASK_STATE_FAILED


def seconds(value: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


async def test_a_task_that_no_worker_takes_in_time_is_a_dead_letter_and_the_audit_log_hears_why(
    world: World,
) -> None:
    task = await world.submit(schedule_to_start_timeout=seconds(0.3))
    other = await world.submit()
    stored = await world.until(task.task_id, FAILED)
    assert stored.error.error_class == "SCHEDULE_TO_START_TIMEOUT"
    assert stored.error.timeout_kind == task_pb2.TIMEOUT_KIND_SCHEDULE_TO_START
    assert stored.dead_lettered and stored.attempt == 0
    trail = await world.peers.audit.of_task(task.task_id, 4)
    assert [event.type for event in trail][-1] == entry_pb2.ENTRY_TYPE_ERROR
    listed = await world.people().ListTasks(messages.ListTasksRequest(filter="dead_lettered = true"))
    assert [each.task_id for each in listed.tasks] == [task.task_id]
    assert (await world.get(other.task_id)).state == task_pb2.TASK_STATE_SUBMITTED


async def test_a_task_that_was_taken_in_time_knows_schedule_to_start_no_more(world: World) -> None:
    task = await world.submit(schedule_to_start_timeout=seconds(2))
    worker = world.worker()
    async with worker.session() as session:
        await worker.release(await worker.must_claim(session))
    [row] = await world.rows("SELECT start_by, due_time FROM task")
    assert row == (None, None) and (await world.get(task.task_id)).attempt == 1


async def test_schedule_to_close_ends_a_running_task_over_all_its_attempts(world: World) -> None:
    task = await world.submit(schedule_to_close_timeout=seconds(0.5))
    worker = world.worker()
    async with worker.session() as session:
        await worker.release(await worker.must_claim(session))
        claimed = await worker.must_claim(session)
        stored = await world.until(task.task_id, FAILED)
        assert stored.error.timeout_kind == task_pb2.TIMEOUT_KIND_SCHEDULE_TO_CLOSE
        assert stored.dead_lettered and [each.outcome for each in stored.attempts] == ["RELEASED", "FAILED"]
        assert (await refused(worker.complete(claimed))).reason == "STALE_ATTEMPT"


async def test_schedule_to_close_stands_still_while_a_person_decides(world: World) -> None:
    task = await world.submit(schedule_to_close_timeout=seconds(60))
    stub = world.people()
    paused = (await stub.PauseTask(messages.PauseTaskRequest(task_id=task.task_id))).task
    assert not paused.HasField("expire_time")
    # An hour passes.
    await world.rows("UPDATE task SET run_after = run_after - interval '1 hour' RETURNING 1")
    resumed = (await stub.ResumeTask(messages.ResumeTaskRequest(task_id=task.task_id))).task
    assert task.expire_time.ToNanoseconds() <= resumed.expire_time.ToNanoseconds()


async def test_start_to_close_of_one_task_goes_before_its_agents_and_is_repeated(world: World) -> None:
    task = await world.submit(
        start_to_close_timeout=seconds(0.3),
        retry=agent_pb2.RetryPolicy(max_failures=2, initial_interval=seconds(0.01)),
    )
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert claimed.start_to_close_timeout == seconds(0.3)
        assert (await worker.must_claim(session)).attempt == 2
        stored = await world.until(task.task_id, FAILED)
    assert stored.failures == 2 and stored.dead_lettered
    assert stored.error.timeout_kind == task_pb2.TIMEOUT_KIND_START_TO_CLOSE


async def test_what_is_not_set_apart_stays_the_agents(world: World) -> None:
    usual = await world.submit()
    task = await world.submit(retry=agent_pb2.RetryPolicy(non_retryable_classes=["KeyError"]))
    assert task.retry.max_failures == usual.retry.max_failures
    assert task.retry.non_retryable_classes == ["KeyError"]
    worker = world.worker()
    async with worker.session() as session:
        first, second = await worker.must_claim(session), await worker.must_claim(session)
        assert await worker.fail(first, "KeyError") == task_pb2.TASK_STATE_SUBMITTED
        assert await worker.fail(second, "KeyError") == FAILED
    assert not (await world.get(task.task_id)).dead_lettered


async def test_everything_wrong_with_what_is_set_apart_is_told_at_once(world: World) -> None:
    bad = request(
        retry=agent_pb2.RetryPolicy(
            max_failures=-1,
            initial_interval=seconds(-1),
            coefficient=0.5,
            non_retryable_classes=[""],
        ),
        schedule_to_start_timeout=seconds(0),
        start_to_close_timeout=seconds(100_000),
        schedule_to_close_timeout=seconds(-5),
    )
    error = await refused(world.people().SubmitTask(bad))
    assert sorted(each.field for each in error.violations) == [
        "retry.coefficient",
        "retry.initial_interval",
        "retry.max_failures",
        "retry.non_retryable_classes",
        "schedule_to_close_timeout",
        "schedule_to_start_timeout",
        "start_to_close_timeout",
    ]


@pytest.mark.parametrize("method", ["CancelTask", "PauseTask"])
async def test_an_attempt_that_does_not_wind_up_in_its_grace_is_ended_and_the_end_says_so(
    still_world: World, method: str
) -> None:
    expected: dict[str, tuple[Any, str, str]] = {
        "CancelTask": (task_pb2.TASK_STATE_CANCELED, "CANCELED", "CANCEL_FORCED"),
        "PauseTask": (task_pb2.TASK_STATE_PAUSED, "PAUSED", "PAUSE_FORCED"),
    }
    state, outcome, error_class = expected[method]
    async with still_world.serving(wind_up_seconds=0.3) as world:
        task = await world.submit()
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
            asked = getattr(messages, f"{method}Request")(task_id=task.task_id)
            await getattr(world.people(), method)(asked)
            stored = await world.until(task.task_id, state)
            assert (stored.attempts[0].outcome, stored.attempts[0].error.error_class) == (
                outcome,
                error_class,
            )
            assert (stored.error.error_class == error_class) == (method == "CancelTask")
            await session.directive(worker_service_pb2.DIRECTIVE_STOP)
            assert (await refused(worker.complete(claimed))).reason == "STALE_ATTEMPT"
