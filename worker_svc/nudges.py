"""Nudges on the side of the worker: taken while it takes tasks, left to others while it does not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import dramatiq

from svc_kit.nudges import ACTOR, NudgeBroker, nudge, queue_name


class Nudges:
    """A Dramatiq worker whose actor waits while this process claims all that is runnable in a pool."""

    def __init__(self, url: str, pools: Sequence[str], claim_all: Callable[[str], bool]) -> None:
        """`claim_all` blocks; it returns False when this worker takes no tasks."""
        self._broker = NudgeBroker(url)
        self._claim_all = claim_all
        dramatiq.actor(actor_name=ACTOR, queue_name=queue_name(pools[0]), broker=self._broker)(self._nudged)
        for pool in pools[1:]:
            self._broker.declare_queue(queue_name(pool))
        self._worker = dramatiq.Worker(self._broker, worker_threads=len(pools), worker_timeout=1000)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take nudges until the block ends."""
        await asyncio.to_thread(self._worker.start)
        try:
            yield
        finally:
            await asyncio.to_thread(self._worker.stop, 3_000)
            self._broker.client.close()

    def leave(self) -> None:
        """Take no more; one that is on its way already is passed on."""
        for consumer in self._worker.consumers.values():
            consumer.pause()

    def take(self) -> None:
        """Take them again."""
        for consumer in self._worker.consumers.values():
            if consumer.paused:
                consumer.resume()

    def _nudged(self, pool: str) -> None:
        if not self._claim_all(pool):
            self.leave()
            self._broker.enqueue(nudge(pool))
