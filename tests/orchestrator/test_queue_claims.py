"""Who goes next: priority, turns by key, limits, pauses; exact with two orchestrators claiming at once."""

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as task_messages
from interlock.orchestrator.v1 import queue_service_pb2 as messages
from interlock.orchestrator.v1 import queue_service_pb2_grpc, task_pb2
from orchestrator_svc.store.candidates import LOOK_AHEAD
from svc_kit.identity import Role
from tests.orchestrator.peers import TENANT
from tests.orchestrator.worker import Session, Worker
from tests.orchestrator.world import World, refused, request

if TYPE_CHECKING:
    Operators = queue_service_pb2_grpc.QueueServiceAsyncStub


def operators(world: World) -> "Operators":
    opened = world.channel(world.addresses.public, [Role.ADMIN], TENANT, "op@example.org")
    return queue_service_pb2_grpc.QueueServiceStub(opened)


async def make_queue(world: World, name: str = "narrow", **limits: Any) -> messages.Queue:
    asked = messages.CreateQueueRequest(queue=messages.Queue(name=name, **limits))
    return (await operators(world).CreateQueue(asked)).queue


async def claim_all(worker: Worker, session: Session, most: int = 100) -> list[str]:
    """Ids of what is runnable, one claim after the other."""
    claimed: list[str] = []
    while len(claimed) < most and (task := await worker.claim(session)) is not None:
        claimed.append(task.task_id)
    return claimed


async def test_the_higher_priority_goes_first_and_within_one_the_older(world: World) -> None:
    names = {
        (await world.submit(priority=priority)).task_id: (priority, place)
        for place, priority in enumerate((0, 9, 5, 9, 0))
    }
    worker = world.worker()
    async with worker.session() as session:
        claimed = [names[task_id] for task_id in await claim_all(worker, session)]
    assert claimed == [(9, 1), (9, 3), (5, 2), (0, 0), (0, 4)]


async def test_fairness_keys_take_turns_over_claims_while_priority_goes_before(world: World) -> None:
    keys = {(await world.submit(fairness_key="big")).task_id: "big" for _ in range(4)}
    keys |= {(await world.submit(fairness_key=key)).task_id: key for key in ("small", "tiny", "tiny")}
    keys[(await world.submit(fairness_key="big", priority=6)).task_id] = "urgent"
    worker = world.worker()
    async with worker.session() as session:
        claimed = [keys[task_id] for task_id in await claim_all(worker, session)]
    assert claimed == ["urgent", "big", "small", "tiny", "big", "tiny", "big", "big"]


async def test_no_more_tasks_of_a_concurrency_key_run_than_may_and_the_others_are_not_held_up(
    world: World,
) -> None:
    tasks = [(await world.submit(concurrency_key="repo-1")).task_id for _ in range(3)]
    free = (await world.submit(concurrency_key="repo-2")).task_id
    worker = world.worker()
    async with worker.session() as session:
        first, second = await worker.must_claim(session), await worker.must_claim(session)
        assert {first.task_id, second.task_id} == {tasks[0], free}
        assert await worker.claim(session) is None
        await worker.complete(first if first.task_id == tasks[0] else second)
        assert await claim_all(worker, session) == [tasks[1]]


async def test_keys_that_share_a_turn_go_by_age_however_many_there_are(world: World) -> None:
    tasks = [
        (await world.submit(fairness_key="customer", concurrency_key=f"repo-{n % 70}")).task_id
        for n in range(LOOK_AHEAD + 40)
    ]
    worker = world.worker()
    async with worker.session() as session:
        # One of each key runs; the next of a key waits for it, and comes before younger ones of other keys.
        assert await claim_all(worker, session) == tasks[:70]
    async with worker.session(slot="other") as session:
        assert await worker.claim(session) is None


async def test_a_flood_of_one_concurrency_key_hides_no_other_of_its_fairness_key(world: World) -> None:
    flood = [
        (await world.submit(fairness_key="customer", concurrency_key="flood")).task_id
        for _ in range(LOOK_AHEAD + 5)
    ]
    others = {
        (await world.submit(fairness_key="customer", concurrency_key=f"repo-{n}")).task_id for n in range(20)
    }
    free = (await world.submit(fairness_key="customer")).task_id
    worker = world.worker()
    async with worker.session() as session:
        first = await worker.must_claim(session)
        assert first.task_id == flood[0]
        claimed = await claim_all(worker, session)
        # Nothing else may run: every other key was come to, and no key twice.
        assert sorted(claimed) == sorted({*others, free})
        await worker.complete(first)
        assert await claim_all(worker, session) == [flood[1]]


@pytest.mark.parametrize("by", ["queue", "key"])
async def test_limits_hold_exactly_while_two_orchestrators_claim_at_once(world: World, by: str) -> None:
    if by == "queue":
        await make_queue(world, max_running=7)
        fields: list[dict[str, Any]] = [{"queue": "narrow"}] * 40
    else:
        await make_queue(world, max_running_per_key=2)
        fields = [{"queue": "narrow", "concurrency_key": f"k{n % 4}"} for n in range(40)]
    await asyncio.gather(*(world.people().SubmitTask(request(**each)) for each in fields))
    first = world.worker(subject="worker-0")
    async with world.serving(internal_address=f"unix:{world.folder}/in2.sock"):
        second = world.worker(subject="worker-1")
        async with first.session(slot="a") as here, second.session(slot="b") as there:
            done = 0
            while done < len(fields):
                claims = await asyncio.gather(
                    *(first.claim(here) for _ in range(12)), *(second.claim(there) for _ in range(12))
                )
                running = [claimed for claimed in claims if claimed is not None]
                if by == "queue":
                    assert len(running) == min(7, len(fields) - done)
                else:
                    keys = Counter(
                        [(await world.get(claimed.task_id)).concurrency_key for claimed in running]
                    )
                    assert set(keys.values()) == {2} and len(running) == 8
                await asyncio.gather(*(first.complete(claimed) for claimed in claims[:12] if claimed))
                await asyncio.gather(*(second.complete(claimed) for claimed in claims[12:] if claimed))
                done += len(running)


async def test_a_rate_lets_so_many_start_at_once_and_then_as_many_as_come_in(world: World) -> None:
    rate = messages.RateLimit(count=5, burst=3)
    rate.period.FromSeconds(3600)
    await make_queue(world, rate_limit=rate)
    for _ in range(8):
        await world.submit(queue="narrow")
    worker = world.worker()
    async with worker.session() as session:
        assert len(await claim_all(worker, session)) == 3
        async with await psycopg.AsyncConnection.connect(world.database.owner_url) as connection:
            await connection.execute("UPDATE queue SET tokens_time = tokens_time - interval '24.1 min'")
        assert len(await claim_all(worker, session)) == 2


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(world: World) -> None:
    task = await world.submit()
    stub, worker = operators(world), world.worker()
    paused = (await stub.PauseQueue(messages.PauseQueueRequest(name="default"))).queue
    assert paused.paused
    async with worker.session() as session:
        assert await worker.claim(session) is None
        await stub.ResumeQueue(messages.ResumeQueueRequest(name="default"))
        assert await claim_all(worker, session) == [task.task_id]


async def test_every_queue_of_a_pool_gets_its_turn(world: World) -> None:
    await make_queue(world, "other")
    queues = {(await world.submit(queue=name)).task_id: name for name in ["default", "other"] * 15}
    worker = world.worker()
    async with worker.session() as session:
        first = Counter(queues[task_id] for task_id in await claim_all(worker, session, 20))
        assert set(first) == {"default", "other"}
        assert len(await claim_all(worker, session)) == 10


async def test_a_full_or_paused_queue_does_not_hold_up_the_others_of_its_pool(world: World) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        await make_queue(world, name, max_running_per_key=1)
        for _ in range(2):
            await world.submit(queue=name, concurrency_key="k")
    last = [(await world.submit()).task_id for _ in range(3)]
    worker = world.worker()
    async with worker.session() as session:
        claimed = await asyncio.gather(*(worker.claim(session) for _ in range(9)))
        assert sum(each is not None for each in claimed) == 9
        assert await worker.claim(session) is None
    assert set(last) < {each.task_id for each in claimed if each is not None}


async def test_a_task_waits_for_its_time_and_is_then_claimed(world: World) -> None:
    later = messages.Queue().create_time
    later.FromSeconds(4_000_000_000)
    error = await refused(world.people().SubmitTask(request(run_after=later)))
    assert error.reason == "INVALID_FIELDS"
    scheduled = task_pb2.Task().create_time
    scheduled.GetCurrentTime()
    past = await world.submit(run_after=scheduled)
    assert past.wait_reason == task_pb2.WAIT_REASON_QUEUED
    delayed = messages.RateLimit().period
    delayed.FromMilliseconds(400)
    waiting = await world.submit(delay=delayed, priority=9)
    assert waiting.wait_reason == task_pb2.WAIT_REASON_SCHEDULED
    assert waiting.run_after.ToNanoseconds() - waiting.create_time.ToNanoseconds() == 400_000_000
    worker = world.worker()
    async with worker.session() as session:
        assert (await worker.must_claim(session)).task_id == past.task_id
        async with asyncio.timeout(10):
            while True:
                claimed = await worker.claim(session)
                if claimed is not None:
                    break
                await asyncio.sleep(0.02)
    assert claimed.task_id == waiting.task_id


async def test_a_full_queue_refuses_new_tasks_exactly_and_says_when_to_come_back(world: World) -> None:
    await make_queue(world, max_waiting=5)
    calls = [world.people().SubmitTask(request(queue="narrow")) for _ in range(9)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 5
    error = await refused(world.people().SubmitTask(request(queue="narrow")))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert error.retry_after
    worker = world.worker()
    async with worker.session() as session:
        await worker.must_claim(session)
        await world.submit(queue="narrow")


async def test_a_new_task_of_a_busy_key_is_refused_or_takes_the_place_of_the_oldest(world: World) -> None:
    reject = task_pb2.CONCURRENCY_STRATEGY_REJECT
    replace = task_pb2.CONCURRENCY_STRATEGY_CANCEL_OLDEST
    request_id = "0190aaaa-0000-7000-8000-000000000001"
    first = await world.submit(concurrency_key="k", concurrency_strategy=reject, request_id=request_id)
    error = await refused(
        world.people().SubmitTask(request(concurrency_key="k", concurrency_strategy=reject))
    )
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONCURRENCY_KEY_BUSY")
    again = await world.submit(concurrency_key="k", concurrency_strategy=reject, request_id=request_id)
    assert again.task_id == first.task_id
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        second = await world.submit(concurrency_key="k", concurrency_strategy=replace)
        assert (await world.get(first.task_id)).state == task_pb2.TASK_STATE_CANCELING
        third = await world.submit(concurrency_key="k", concurrency_strategy=replace)
        assert (await world.get(second.task_id)).state == task_pb2.TASK_STATE_CANCELED
        assert await worker.claim(session) is None
        await worker.fail(claimed)
        assert await claim_all(worker, session) == [third.task_id]
    assert (await world.get(first.task_id)).state == task_pb2.TASK_STATE_CANCELED


async def test_whoever_makes_room_for_a_task_takes_its_request_id_before_the_log(world: World) -> None:
    replace = task_pb2.CONCURRENCY_STRATEGY_CANCEL_OLDEST
    request_id = "0190aaaa-0000-7000-8000-000000000002"
    first = await world.submit(concurrency_key="k")
    # As another replica stores tasks: the request id, then the log.
    async with await psycopg.AsyncConnection.connect(world.database.service_url) as other:
        await other.execute(
            "INSERT INTO idempotency (tenant, subject, method, request_id, digest, task_id, create_time)"
            " VALUES ('default', 'ada@example.org', 'SubmitTask', %s, 'd', gen_random_uuid(), now())",
            [request_id],
        )
        submitting = asyncio.ensure_future(
            world.submit(concurrency_key="k", concurrency_strategy=replace, request_id=request_id)
        )
        waits = "SELECT FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        async with asyncio.timeout(10):
            while (await other.execute(waits)).rowcount == 0:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        await other.execute("SELECT FROM log_head FOR UPDATE NOWAIT")
        await other.rollback()
    second = await submitting
    assert second.task_id != first.task_id
    assert (await world.get(first.task_id)).state == task_pb2.TASK_STATE_CANCELED


async def test_a_request_id_whose_task_was_refused_may_be_used_again(world: World) -> None:
    reject = task_pb2.CONCURRENCY_STRATEGY_REJECT
    request_id = "0190aaaa-0000-7000-8000-000000000003"
    first = await world.submit(concurrency_key="k")
    again = request(concurrency_key="k", concurrency_strategy=reject, request_id=request_id)
    error = await refused(world.people().SubmitTask(again))
    assert error.reason == "CONCURRENCY_KEY_BUSY"
    await world.people().CancelTask(task_messages.CancelTaskRequest(task_id=first.task_id))
    assert (await world.people().SubmitTask(again)).task.task_id


async def test_an_unknown_queue_is_refused_also_when_only_asked_whether_it_would_do(world: World) -> None:
    for validate_only in (False, True):
        asked = request(queue="nowhere", validate_only=validate_only)
        error = await refused(world.people().SubmitTask(asked))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")


async def test_everything_wrong_with_a_place_is_said_at_once(world: World) -> None:
    asked = request(
        queue="No Queue",
        priority=10,
        fairness_key="x" * 129,
        concurrency_strategy=task_pb2.CONCURRENCY_STRATEGY_REJECT,
    )
    asked.delay.FromSeconds(-1)
    error = await refused(world.people().SubmitTask(asked))
    fields = {violation.field for violation in error.violations}
    assert fields == {"queue", "priority", "fairness_key", "concurrency_strategy", "delay"}
