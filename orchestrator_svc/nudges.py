"""Nudges to the pools: as few as do, and none that anybody waits for."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import dramatiq.errors
import redis
import structlog

from svc_kit.errors import Unavailable
from svc_kit.nudges import NAMESPACE, NudgeBroker, nudge, queue_name

log = structlog.get_logger(__name__)

# More nudges than this in a queue wake nobody sooner: whoever takes one claims until nothing is runnable.
MAX_WAITING = 8
_AWAY_SECONDS = 1.0
_SHORTEST_SWEEP_SECONDS = 0.02


class Broker(Protocol):
    """Sends nudges; blocks."""

    def send(self, pool: str, count: int) -> None: ...
    def close(self) -> None: ...


class RedisNudges:
    """Dramatiq messages on Redis."""

    def __init__(self, url: str) -> None:
        self._broker = NudgeBroker(url)

    def send(self, pool: str, count: int) -> None:
        """Fill the pool's queue by up to `count` nudges; raises redis or dramatiq connection errors."""
        queue = queue_name(pool)
        waiting: int = self._broker.client.llen(f"{NAMESPACE}:{queue}")
        for _ in range(min(count, MAX_WAITING - waiting)):
            self._broker.enqueue(nudge(pool))

    def close(self) -> None:
        """Close the connections."""
        self._broker.client.close()


class Nudger:
    """Sends what was asked for since the last time, from a thread of its own.

    While Redis is away nothing is kept: workers claim by themselves once a second, and the sweep asks again.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._wanted: dict[str, int] = {}
        self._asked = asyncio.Event()
        self._away = False

    def nudge(self, runnable: Mapping[str, int]) -> None:
        """So many tasks of each pool have become runnable; does not block."""
        for pool, count in runnable.items():
            self._wanted[pool] = min(MAX_WAITING, self._wanted.get(pool, 0) + count)
        if self._wanted:
            self._asked.set()

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nudges")
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                wanted, self._wanted = self._wanted, {}
                await self._send(thread, wanted)
        finally:
            # A Redis that hangs must not hold up the end: the thread gives up by its own time-out.
            thread.shutdown(wait=False, cancel_futures=True)
            self._broker.close()

    async def _send(self, thread: ThreadPoolExecutor, wanted: Mapping[str, int]) -> None:
        loop = asyncio.get_running_loop()
        try:
            for pool, count in wanted.items():
                await loop.run_in_executor(thread, self._broker.send, pool, count)
        except (redis.RedisError, dramatiq.errors.DramatiqError, OSError) as error:
            if not self._away:
                self._away = True
                log.warning("nudges_unavailable", error=str(error))
            await asyncio.sleep(_AWAY_SECONDS)
        except Exception:
            # What was wanted is lost, which costs latency alone; the next nudge must find the loop alive.
            log.exception("nudges_failed")
            await asyncio.sleep(_AWAY_SECONDS)
        else:
            if self._away:
                self._away = False
                log.info("nudges_available")


class RunnableStore(Protocol):
    """Knows what could run."""

    async def runnable(self, limit: int) -> dict[str, tuple[int, float | None]]: ...


class Sweep:
    """Nudges for tasks that have become runnable by the clock, or whose nudge was lost."""

    def __init__(self, store: RunnableStore, nudger: Nudger, *, interval: float = 1.0) -> None:
        self._store = store
        self._nudger = nudger
        self._interval = interval

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            pause = self._interval
            try:
                pools = await self._store.runnable(MAX_WAITING)
                self._nudger.nudge({pool: count for pool, (count, _) in pools.items() if count})
                ends = [seconds for _, seconds in pools.values() if seconds is not None]
                # A back-off that ends before the next look is waited for, not rounded up to it.
                pause = min([pause, *(max(_SHORTEST_SWEEP_SECONDS, seconds) for seconds in ends)])
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(pause)
