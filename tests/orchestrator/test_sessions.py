"""Worker sessions: leases, successors, directives, renewed tokens."""

import asyncio
import itertools
import uuid

import grpc

from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from tests.orchestrator.world import LEASE, World, refused, refused_stream, request


def terminal(events: list[task_pb2.TaskEvent]) -> list[task_pb2.TaskEvent]:
    """Those events that end the task."""
    over = (task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELED)
    return [event for event in events if event.state in over]


async def test_the_first_answer_names_lease_and_heartbeat_interval(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        first = session.answers.get_nowait()
        assert abs(first.lease.ToMilliseconds() - LEASE * 1000) < 200
        assert first.heartbeat_interval.ToMilliseconds() == LEASE * 250


async def test_a_session_that_is_heard_keeps_its_attempts_beyond_many_leases(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await asyncio.sleep(3.5 * LEASE)
        await worker.complete(claimed)
    stored = await world.get(task.task_id)
    assert (stored.state, stored.attempt, stored.crashes) == (task_pb2.TASK_STATE_COMPLETED, 1, 0)


async def test_when_a_lease_runs_out_the_task_runs_again_and_ends_exactly_once(world: World) -> None:
    task = await world.submit()
    silent, other = world.worker(subject="silent"), world.worker(subject="other")
    async with silent.session(slot="silent") as session:
        lost = await silent.must_claim(session)
    async with other.session(slot="other") as session:
        claimed = await other.must_claim(session)
        assert (claimed.task_id, claimed.attempt) == (task.task_id, 2)
        await other.complete(claimed, {"by": "other"})
    for late in (silent.complete(lost), silent.release(lost), silent.fail(lost)):
        error = await refused(late)
        assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "STALE_ATTEMPT")
    stored = await world.get(task.task_id)
    assert [(each.outcome, each.attempt) for each in stored.attempts] == [("LOST", 1), ("COMPLETED", 2)]
    assert (stored.retry_count, stored.failures, stored.crashes) == (1, 0, 1)
    events = await world.history(task.task_id)
    assert [event.revision for event in events] == list(range(2, stored.revision + 1))
    assert len(terminal(events)) == 1


async def test_a_newer_process_in_the_same_slot_ends_the_attempts_of_the_older_one_at_once(
    world: World,
) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session(incarnation=1) as old:
        await worker.must_claim(old)
        async with worker.session(incarnation=2) as new:
            claimed = await worker.claim(new)
            assert claimed is not None and (claimed.task_id, claimed.attempt) == (task.task_id, 2)


async def test_a_process_that_gave_its_session_up_goes_on_at_once_under_a_new_one(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session(incarnation=1) as given_up:
        await worker.must_claim(given_up)
    async with worker.session(incarnation=1) as new:
        claimed = await worker.claim(new)
        assert claimed is not None and (claimed.task_id, claimed.attempt) == (task.task_id, 2)


async def test_the_stream_of_a_replaced_process_ends_with_its_next_heartbeat(world: World) -> None:
    worker = world.worker()
    stream = worker.stub.WorkerSession()
    opened = worker_service_pb2.OpenSession(
        session_id=str(uuid.uuid4()), slot="host/worker-0", incarnation=1, pools=["default"], capacity=1
    )
    await stream.write(worker_service_pb2.WorkerSessionRequest(open=opened))
    await stream.read()
    async with worker.session(incarnation=2):
        await stream.write(worker_service_pb2.WorkerSessionRequest(heartbeat=worker_service_pb2.Heartbeat()))
        error = await refused_stream(stream)
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_an_older_process_cannot_take_the_slot_back(world: World) -> None:
    worker = world.worker()
    async with worker.session(incarnation=2):
        opened = worker_service_pb2.OpenSession(
            session_id=str(uuid.uuid4()),
            slot="host/worker-0",
            incarnation=1,
            pools=["default"],
            capacity=1,
        )
        stream = worker.stub.WorkerSession()
        await stream.write(worker_service_pb2.WorkerSessionRequest(open=opened))
        error = await refused_stream(stream)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")


async def test_a_broken_stream_is_taken_up_again_by_id_within_the_lease(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as first:
        claimed = await worker.must_claim(first)
    async with worker.session(session_id=first.session_id) as second:
        second.attempts = first.attempts
        await asyncio.sleep(1.5 * LEASE)
        await worker.complete(claimed)
    assert (await world.get(task.task_id)).attempt == 1


async def test_an_ended_session_cannot_be_taken_up_again(world: World) -> None:
    await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.must_claim(session)
    other = world.worker(subject="other")
    async with other.session(slot="other") as elsewhere:
        await other.must_claim(elsewhere)
    stream = worker.stub.WorkerSession()
    opened = worker_service_pb2.OpenSession(
        session_id=session.session_id, slot="host/worker-0", incarnation=1, pools=["default"], capacity=1
    )
    await stream.write(worker_service_pb2.WorkerSessionRequest(open=opened))
    assert (await refused_stream(stream)).reason == "SESSION_NOT_FOUND"


async def test_a_stream_must_begin_by_opening_a_session(world: World) -> None:
    stream = world.worker().stub.WorkerSession()
    await stream.write(worker_service_pb2.WorkerSessionRequest(heartbeat=worker_service_pb2.Heartbeat()))
    error = await refused_stream(stream)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


async def test_a_cancel_reaches_the_worker_at_once_and_not_at_its_next_heartbeat(still_world: World) -> None:
    async with still_world.serving(lease_seconds=60) as world:
        task = await world.submit()
        worker = world.worker()
        async with worker.session() as session:
            await worker.must_claim(session)
            await world.people().CancelTask(messages.CancelTaskRequest(task_id=task.task_id))
            told = await session.directive(worker_service_pb2.DIRECTIVE_CANCEL, seconds=2)
            assert told.attempt.task_id == task.task_id


async def test_a_worker_that_speaks_of_an_ended_attempt_is_told_to_stop(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        ghost = worker_service_pb2.AttemptRef(task_id=str(uuid.uuid4()), attempt=7)
        session.attempts.append(ghost)
        told = await session.directive(worker_service_pb2.DIRECTIVE_STOP)
        assert told.attempt == ghost


async def test_the_session_renews_attempt_tokens_before_they_expire(still_world: World) -> None:
    async with still_world.serving(attempt_token_seconds=1) as world:
        await world.submit()
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
            first = claimed.attempt_token
            await asyncio.sleep(1.2)
            error = await refused(worker.complete(claimed))
            assert error.reason == "ATTEMPT_TOKEN_EXPIRED"
            while not session.answers.empty():
                session.answers.get_nowait()
            told = await session.directive(worker_service_pb2.DIRECTIVE_CONTINUE)
            assert told.attempt_token != first
            claims = permit_pb2.AttemptClaims.FromString(told.attempt_token.payload)
            assert (claims.task_id, claims.attempt) == (claimed.task_id, 1)
            claimed.attempt_token.CopyFrom(told.attempt_token)
            await worker.complete(claimed)


async def test_an_attempt_whose_claim_was_never_answered_is_given_back_after_a_lease(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.must_claim(session)
        session.attempts.clear()
        claimed = await worker.must_claim(session)
        assert (claimed.task_id, claimed.attempt) == (task.task_id, 2)
    stored = await world.get(task.task_id)
    assert stored.attempts[0].outcome == "RELEASED" and (stored.failures, stored.crashes) == (0, 0)


async def test_a_task_that_three_workers_died_of_is_failed_as_poison(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    for incarnation in range(1, 4):
        async with worker.session(incarnation=incarnation) as session:
            await worker.must_claim(session)
    async with worker.session(incarnation=4):
        stored = await world.until(task.task_id, task_pb2.TASK_STATE_FAILED)
    assert stored.error.error_class == "POISON" and stored.crashes == 3
    assert [attempt.outcome for attempt in stored.attempts] == ["LOST"] * 3


async def test_of_the_tasks_aboard_two_deaths_in_a_row_only_the_one_that_goes_on_to_kill_is_poison(
    world: World,
) -> None:
    tasks = [await world.submit() for _ in range(3)]
    killer = tasks[1].task_id
    worker = world.worker()
    incarnations = itertools.count(1)

    async def die_of(count: int) -> list[worker_service_pb2.ClaimedTask]:
        """A process that takes so many tasks and dies, when the killer is among them."""
        async with worker.session(incarnation=next(incarnations)) as session:
            claimed = [await worker.must_claim(session) for _ in range(count)]
            if killer not in {each.task_id for each in claimed}:
                for each in claimed:
                    await worker.complete(each)
            return claimed

    await die_of(3)
    await die_of(3)
    async with worker.session(incarnation=next(incarnations)) as session:
        suspects = await world.rows("SELECT suspect, crashes FROM task")
        await worker.release(await worker.must_claim(session))
        # That one is a suspect no more; of the other two this worker takes one at a time.
        first, second = [await worker.must_claim(session) for _ in range(2)]
        assert await worker.claim(session) is None
        for each in (first, second):
            await worker.release(each)
    assert suspects == [(True, 0)] * 3
    async with asyncio.timeout(20):
        while (await world.get(killer)).state == task_pb2.TASK_STATE_SUBMITTED:
            await die_of(1)
            async with worker.session(incarnation=next(incarnations)):
                pass
    poison = await world.get(killer)
    assert (poison.error.error_class, poison.crashes, poison.dead_lettered) == ("POISON", 3, True)
    others = [await world.get(task.task_id) for task in tasks if task.task_id != killer]
    assert all(task.crashes == 0 for task in others)


async def test_after_a_restart_of_the_orchestrator_a_running_session_loses_no_attempt(
    still_world: World,
) -> None:
    async with still_world.serving() as world:
        task = await world.submit()
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
    # The lease runs out while nobody can hear the worker.
    await asyncio.sleep(1.5 * LEASE)
    async with still_world.serving() as world:
        worker = world.worker()
        async with worker.session(session_id=session.session_id) as again:
            again.attempts = session.attempts
            await asyncio.sleep(1.5 * LEASE)
            await worker.complete(claimed)
        stored = await world.get(task.task_id)
        assert (stored.state, stored.attempt) == (task_pb2.TASK_STATE_COMPLETED, 1)


async def test_fifty_attempts_of_a_lost_worker_all_run_again(world: World) -> None:
    stub = world.people()
    await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(50)))
    silent, other = world.worker(subject="silent"), world.worker(subject="other")
    async with silent.session(slot="silent") as session:
        lost = await asyncio.gather(*(silent.must_claim(session) for _ in range(50)))
    async with other.session(slot="other") as session:
        again = await asyncio.gather(*(other.must_claim(session) for _ in range(50)))
        await asyncio.gather(*(other.complete(claimed) for claimed in again))
    assert {each.task_id for each in again} == {each.task_id for each in lost}
    assert all(each.attempt == 2 for each in again)
