"""Nudges: coalesced, bounded, and never in anybody's way."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import redis

from orchestrator_svc.nudges import MAX_WAITING, Nudger, RedisNudges, Sweep
from svc_kit.nudges import NAMESPACE, queue_name
from tests.orchestrator.world import World, eventually
from tests.suite_fixtures import ValkeyServer


class Broker:
    """Keeps what was sent; can be slow or away."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.away = False
        self.tries = 0

    def send(self, pool: str, count: int) -> None:
        self.tries += 1
        self.gate.wait(10)
        if self.away:
            raise redis.ConnectionError("nobody there")
        self.sent.append((pool, count))

    def close(self) -> None:
        pass


@asynccontextmanager
async def running(nudger: Nudger) -> AsyncIterator[None]:
    task = asyncio.create_task(nudger.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_failure_that_nobody_expected_does_not_end_the_nudges() -> None:
    class Torn(Broker):
        def send(self, pool: str, count: int) -> None:
            super().send(pool, count)
            if self.tries == 1:
                raise ValueError("not one of Redis' errors")

    broker = Torn()
    nudger = Nudger(broker)
    async with running(nudger):
        nudger.nudge({"default": 1})
        await eventually(lambda: broker.tries == 1)
        nudger.nudge({"default": 2})
        await eventually(lambda: broker.tries == 2)
    assert broker.sent[-1] == ("default", 2)


async def test_what_is_asked_for_while_a_nudge_is_under_way_becomes_one_more() -> None:
    broker = Broker()
    broker.gate.clear()
    nudger = Nudger(broker)
    async with running(nudger):
        nudger.nudge({"default": 1})
        await eventually(lambda: broker.tries == 1)
        for _ in range(1000):
            nudger.nudge({"default": 1})
        broker.gate.set()
        await eventually(lambda: len(broker.sent) == 2)
    assert broker.sent == [("default", 1), ("default", MAX_WAITING)]


async def test_while_redis_is_away_nudges_are_dropped_and_nobody_waits() -> None:
    broker = Broker()
    broker.away = True
    nudger = Nudger(broker)
    async with running(nudger):
        nudger.nudge({"default": 1})
        await eventually(lambda: broker.tries == 1)
        broker.away = False
        nudger.nudge({"default": 1})
        await eventually(lambda: bool(broker.sent))


async def test_the_sweep_nudges_pools_with_runnable_tasks_and_waits_for_the_next_back_off() -> None:
    broker = Broker()
    nudger = Nudger(broker)

    class Store:
        reads = 0

        async def runnable(self, limit: int) -> dict[str, tuple[int, float | None]]:
            self.reads += 1
            if self.reads == 1:
                return {"default": (0, 0.05), "busy": (3, None)}
            return {"default": (1, None)}

    store = Store()
    sweep = asyncio.create_task(Sweep(store, nudger, interval=60).run())
    async with running(nudger):
        # Far less than the interval passes until the back-off has ended.
        await eventually(lambda: ("default", 1) in broker.sent, seconds=5)
    sweep.cancel()
    with suppress(asyncio.CancelledError):
        await sweep
    assert broker.sent == [("busy", 3), ("default", 1)]


async def test_a_queue_is_never_filled_beyond_its_bound(valkey_server: ValkeyServer) -> None:
    client = redis.Redis.from_url(valkey_server.url)
    broker = RedisNudges(valkey_server.url)
    queue = f"{NAMESPACE}:{queue_name('bounded')}"
    try:
        for _ in range(5):
            await asyncio.to_thread(broker.send, "bounded", 3)
        assert client.llen(queue) == MAX_WAITING
    finally:
        broker.close()
        client.delete(queue, f"{queue}.msgs")
        client.close()


async def test_tasks_are_taken_and_run_while_redis_is_away(still_world: World) -> None:
    nowhere = f"unix://{still_world.folder}/no-redis.sock"
    async with still_world.serving(redis_url=nowhere) as world:
        task = await world.submit()
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
            await worker.complete(claimed)
        assert (await world.get(task.task_id)).result_json
