"""Whatever two orchestrators, their workers and their callers do at the same time, the log stays whole."""

import asyncio
import random
from collections import defaultdict

import grpc
import psycopg
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import worker_service_pb2
from tests.orchestrator.worker import Session, Worker
from tests.orchestrator.world import World, request

TERMINAL = {"COMPLETED", "FAILED", "CANCELED"}
TASKS = 80


async def work(worker: Worker, session: Session, seed: int, done: asyncio.Event) -> None:
    """Does at random what workers do, until told to stop; late writes are refused and forgotten."""
    chance = random.Random(seed)
    while not done.is_set():
        claimed = await worker.claim(session)
        if claimed is None:
            await asyncio.sleep(0.02)
            continue
        try:
            await act(worker, claimed, chance)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION):
                raise
        session.attempts[:] = [ref for ref in session.attempts if ref.task_id != claimed.task_id]


async def act(worker: Worker, claimed: worker_service_pb2.ClaimedTask, chance: random.Random) -> None:
    for n in range(chance.randrange(3)):
        begun = await worker.begin(claimed, f"step-{n}")
        if begun.HasField("start"):
            await worker.record(claimed, worker.finished(begun, n))
    match chance.choice(["complete", "complete", "fail", "release", "forget"]):
        case "complete":
            await worker.complete(claimed)
        case "fail":
            await worker.fail(claimed)
        case "release":
            await worker.release(claimed)
        case _:
            pass  # as if the worker had lost it: the session gives it back after a lease


@pytest.mark.slow
async def test_two_orchestrators_and_four_workers_keep_every_invariant(world: World) -> None:
    here, other = world.addresses, world.worker(subject="worker-0")
    async with world.serving(internal_address=f"unix:{world.folder}/in2.sock"):
        there = world.worker(subject="worker-1")
        stub = world.people()
        done = asyncio.Event()
        async with (
            other.session(slot="a") as first,
            other.session(slot="b") as second,
            there.session(slot="c") as third,
            there.session(slot="d") as fourth,
            asyncio.TaskGroup() as group,
        ):
            pairs = ((other, first), (other, second), (there, third), (there, fourth))
            for seed, (worker, session) in enumerate(pairs):
                group.create_task(work(worker, session, seed, done))
                group.create_task(work(worker, session, 10 + seed, done))
            answers = await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(TASKS)))
            for answer in random.Random(1).sample([each.task.task_id for each in answers], 20):
                await stub.CancelTask(messages.CancelTaskRequest(task_id=answer)).code()
            await all_ended(world)
            done.set()
    world.addresses = here
    await check(world)


async def all_ended(world: World) -> None:
    async with (
        asyncio.timeout(60),
        await psycopg.AsyncConnection.connect(world.database.service_url, autocommit=True) as connection,
    ):
        while True:
            rows = await connection.execute("SELECT count(*) FROM task WHERE end_time IS NULL")
            if (await rows.fetchone()) == (0,):
                return
            await asyncio.sleep(0.1)


async def check(world: World) -> None:
    async with await psycopg.AsyncConnection.connect(world.database.service_url) as connection:
        cursor = await connection.execute(
            "SELECT task_id, revision, position, state, time FROM task_event ORDER BY position"
        )
        events = await cursor.fetchall()
        cursor = await connection.execute("SELECT task_id, revision, state, attempt FROM task")
        tasks = await cursor.fetchall()
        cursor = await connection.execute("SELECT task_id, count(*), count(end_time) FROM attempt GROUP BY 1")
        attempts = {task_id: (count, ended) for task_id, count, ended in await cursor.fetchall()}
    assert [event[2] for event in events] == list(range(1, len(events) + 1))
    histories = defaultdict(list)
    for task_id, revision, _, state, time in events:
        histories[task_id].append((revision, state, time))
    assert len(tasks) == TASKS
    for task_id, revision, state, attempt in tasks:
        history = histories[task_id]
        assert [each[0] for each in history] == list(range(1, revision + 1))
        assert [each[2] for each in history] == sorted(each[2] for each in history)
        assert state in TERMINAL
        assert [each[1] for each in history if each[1] in TERMINAL] == [state]
        assert attempts.get(task_id, (0, 0)) == (attempt, attempt)
