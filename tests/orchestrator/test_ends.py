"""How attempts and tasks end: results, failures with back-off, releases, cancels, time-outs."""

import asyncio
import json

import grpc
import pytest

from interlock.audit.v1 import entry_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from tests.orchestrator.peers import payload, spec
from tests.orchestrator.world import World, refused


async def cancel(world: World, task_id: str) -> task_pb2.Task:
    return (await world.people().CancelTask(messages.CancelTaskRequest(task_id=task_id))).task


async def test_a_failed_attempt_is_kept_waits_its_back_off_and_runs_again(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        for attempt in (1, 2):
            claimed = await worker.must_claim(session)
            assert claimed.attempt == attempt
            assert await worker.fail(claimed) == task_pb2.TASK_STATE_SUBMITTED
            waiting = await world.get(task.task_id)
            assert waiting.wait_reason == task_pb2.WAIT_REASON_RETRY_BACKOFF
            assert waiting.failures == attempt and waiting.error.error_class == "ValueError"
            assert waiting.run_after.ToNanoseconds() > waiting.attempts[-1].end_time.ToNanoseconds()
        last = await worker.must_claim(session)
        assert await worker.fail(last) == task_pb2.TASK_STATE_FAILED
    stored = await world.get(task.task_id)
    assert stored.error.message == "it broke" and stored.retry_count == 2
    assert [attempt.outcome for attempt in stored.attempts] == ["FAILED"] * 3
    trail = await world.peers.audit.of_task(task.task_id, 11)
    errors = [event for event in trail if event.type == entry_pb2.ENTRY_TYPE_ERROR]
    assert [event.attempt for event in errors] == [1, 2, 3]
    assert payload(errors[0], "error") == {"class": "ValueError", "message": "it broke"}
    assert len({event.producer_sequence for event in trail}) == len(trail)


async def test_a_failure_that_may_not_be_repeated_ends_the_task(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert await worker.fail(claimed, retryable=False) == task_pb2.TASK_STATE_FAILED
        assert await worker.fail(claimed, retryable=False) == task_pb2.TASK_STATE_FAILED
    assert (await world.get(task.task_id)).failures == 1


async def test_an_error_class_that_the_agent_names_is_never_repeated(world: World) -> None:
    content = spec()
    content.retry.non_retryable_classes.append("KeyError")
    world.peers.registry.publish("picky", content=content)
    await world.submit(agent="picky")
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert await worker.fail(claimed, "KeyError") == task_pb2.TASK_STATE_FAILED


async def test_a_server_told_delay_is_kept(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await worker.fail(claimed, retry_delay=30)
        waiting = await world.get(task.task_id)
        wait = waiting.run_after.ToNanoseconds() - waiting.attempts[0].end_time.ToNanoseconds()
        assert 29 <= wait / 1e9 <= 31
        assert await worker.claim(session) is None


async def test_a_released_task_runs_again_at_once_and_nothing_is_counted(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        first = await worker.must_claim(session)
        await worker.release(first)
        await worker.release(first)
        second = await worker.claim(session)
        assert second is not None and second.attempt == 2
        error = await refused(worker.complete(first))
        assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "STALE_ATTEMPT")
        await worker.complete(second)
    stored = await world.get(task.task_id)
    assert (stored.failures, stored.crashes, stored.attempts[0].outcome) == (0, 0, "RELEASED")


async def test_a_completed_task_never_changes_again(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await worker.complete(claimed, {"rows": 3})
        await worker.complete(claimed, {"rows": 4})
        assert (await refused(worker.fail(claimed))).reason == "STALE_ATTEMPT"
        assert (await refused(worker.begin(claimed))).reason == "STALE_ATTEMPT"
    error = await refused(world.people().CancelTask(messages.CancelTaskRequest(task_id=task.task_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_STATE")
    stored = await world.get(task.task_id)
    assert json.loads(stored.result_json) == {"rows": 3} and stored.revision == 3


async def test_the_database_itself_refuses_to_change_a_task_that_is_over(world: World) -> None:
    import psycopg

    task = await world.submit()
    await cancel(world, task.task_id)
    async with await psycopg.AsyncConnection.connect(world.database.service_url) as connection:
        with pytest.raises(psycopg.errors.RaiseException, match="never changes"):
            await connection.execute("UPDATE task SET state = 'SUBMITTED'")


async def test_the_service_itself_can_neither_change_nor_delete_what_has_happened(world: World) -> None:
    import psycopg

    await world.submit()
    for statement in (
        "UPDATE task_event SET state = 'FAILED'",
        "DELETE FROM task_event",
        "DELETE FROM task",
        "TRUNCATE task_event",
        "DROP TABLE task",
    ):
        async with await psycopg.AsyncConnection.connect(world.database.service_url) as connection:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement)


async def test_a_waiting_task_is_canceled_at_once_and_canceling_it_again_answers_it_as_it_is(
    world: World,
) -> None:
    task = await world.submit()
    first = await cancel(world, task.task_id)
    assert first.state == task_pb2.TASK_STATE_CANCELED and first.HasField("end_time")
    assert await cancel(world, task.task_id) == first
    worker = world.worker()
    async with worker.session() as session:
        assert await worker.claim(session) is None


async def test_a_running_task_is_canceling_until_its_worker_has_wound_up(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        first = await cancel(world, task.task_id)
        assert first.state == task_pb2.TASK_STATE_CANCELING
        assert await cancel(world, task.task_id) == first
        assert await worker.fail(claimed, "Canceled") == task_pb2.TASK_STATE_CANCELED
        assert await worker.fail(claimed, "Canceled") == task_pb2.TASK_STATE_CANCELED
    stored = await world.get(task.task_id)
    assert stored.attempts[0].outcome == "CANCELED" and stored.failures == 0


async def test_a_task_in_its_back_off_is_canceled_at_once(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.fail(await worker.must_claim(session), retry_delay=30)
    assert (await cancel(world, task.task_id)).state == task_pb2.TASK_STATE_CANCELED


async def test_a_canceling_task_whose_worker_dies_is_canceled(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.must_claim(session)
        await cancel(world, task.task_id)
    stored = await world.until(task.task_id, task_pb2.TASK_STATE_CANCELED)
    assert stored.attempts[0].outcome == "LOST"


async def test_a_result_that_came_before_the_worker_heard_of_the_cancel_is_kept(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await cancel(world, task.task_id)
        await worker.complete(claimed, {"done": True})
    assert (await world.get(task.task_id)).state == task_pb2.TASK_STATE_COMPLETED


async def test_an_attempt_that_takes_longer_than_its_agent_may_is_failed_by_the_reaper(
    world: World,
) -> None:
    content = spec()
    content.start_to_close_timeout.FromMilliseconds(300)
    content.retry.max_failures = 1
    world.peers.registry.publish("slow", content=content)
    task = await world.submit(agent="slow")
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        stored = await world.until(task.task_id, task_pb2.TASK_STATE_FAILED)
        assert stored.error.error_class == "START_TO_CLOSE_TIMEOUT"
        assert (await refused(worker.complete(claimed))).reason == "STALE_ATTEMPT"


async def test_cancel_and_complete_at_the_same_time_end_the_task_exactly_once(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        for _ in range(10):
            task = await world.submit()
            claimed = await worker.must_claim(session)
            stub = world.people()
            canceled, _ = await asyncio.gather(
                stub.CancelTask(messages.CancelTaskRequest(task_id=task.task_id)).code(),
                worker.complete(claimed),
            )
            assert canceled in (grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION)
            events = await world.history(task.task_id)
            ended = [event for event in events if event.state == task_pb2.TASK_STATE_COMPLETED]
            assert len(ended) == 1 and events[-1] == ended[0]
