"""Sandboxes that stand ready, refilled while nobody waits for them."""

import asyncio
from collections import deque

from interlock_sandbox.errors import SandboxClosed
from interlock_sandbox.spare import Spare, SpareFailed
from interlock_sandbox.zygote_process import ZygoteProcess


class Pool:
    """Keeps `size` spares of one scratch-folder size; hands each out once.

    Other scratch sizes, and a drained pool, are served by making a sandbox on the spot.
    """

    def __init__(self, zygote: ZygoteProcess, *, size: int, disk_bytes: int) -> None:
        self._zygote = zygote
        self._size = size
        self._disk_bytes = disk_bytes
        self._ready: deque[Spare] = deque()
        self._waiting: deque[asyncio.Future[Spare]] = deque()
        self._making: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def ready(self) -> int:
        """How many spares stand ready."""
        return len(self._ready)

    def take_ready(self, *, disk_bytes: int) -> Spare | None:
        """A spare that stands ready, if there is one; the caller closes it."""
        while self._ready and disk_bytes == self._disk_bytes:
            spare = self._ready.popleft()
            if spare.is_alive():
                return spare
            spare.close()
        return None

    async def take(self, *, disk_bytes: int) -> Spare:
        """A sandbox that waits for its program, made now if need be; the caller closes it.

        Raises SpareFailed.
        """
        if self._closed:
            raise SandboxClosed("the sandbox is closed")
        if disk_bytes != self._disk_bytes:
            return await self._zygote.spawn(disk_bytes=disk_bytes)
        ready = self.take_ready(disk_bytes=disk_bytes)
        if ready is not None:
            return ready
        waiting: asyncio.Future[Spare] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        self.refill()
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                waiting.result().close()
            raise

    def refill(self) -> None:
        """Start making as many as are missing; does not wait."""
        wanted = self._size + sum(not waiting.done() for waiting in self._waiting)
        while not self._closed and len(self._ready) + len(self._making) < wanted:
            task = asyncio.create_task(self._make_one())
            self._making.add(task)
            task.add_done_callback(self._making.discard)

    async def _make_one(self) -> None:
        try:
            spare = await self._zygote.spawn(disk_bytes=self._disk_bytes)
        except SpareFailed as failure:
            # One waiting call learns of it; without one, the next call tries again and does.
            waiting = self._next_waiting()
            if waiting is not None:
                waiting.set_exception(failure)
            return
        waiting = self._next_waiting()
        if waiting is not None:
            waiting.set_result(spare)
        elif self._closed:
            spare.close()
        else:
            self._ready.append(spare)

    def _next_waiting(self) -> asyncio.Future[Spare] | None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                return waiting
        return None

    async def fill(self) -> None:
        """Return once the pool is full; raises SpareFailed if the first cannot be made."""
        if self._size and not self._ready:
            self._ready.append(await self._zygote.spawn(disk_bytes=self._disk_bytes))
        self.refill()
        while self._making:
            await asyncio.wait(self._making)

    async def close(self) -> None:
        """Kill every spare, and fail whoever waits for one."""
        self._closed = True
        for task in self._making:
            task.cancel()
        if self._making:
            await asyncio.wait(self._making)
        while (waiting := self._next_waiting()) is not None:
            waiting.set_exception(SandboxClosed("the sandbox is closed"))
        while self._ready:
            self._ready.popleft().close()
