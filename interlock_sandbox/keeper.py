"""Keeps a zygote and its pool alive: a dead zygote is replaced, and whoever waits for a sandbox waits on."""

import asyncio
from collections.abc import Callable

from interlock_sandbox.errors import SandboxClosed, SandboxUnavailable
from interlock_sandbox.levels import Layer
from interlock_sandbox.pool import Pool
from interlock_sandbox.spare import Spare, SpareFailed
from interlock_sandbox.zygote_process import ZygoteProcess

_RESTART_SECONDS = (0.05, 0.2, 1.0, 5.0)


class Keeper:
    """Source of sandboxes, always with the layers of the zygote it was given."""

    def __init__(
        self,
        zygote: ZygoteProcess,
        make: Callable[[frozenset[Layer]], ZygoteProcess],
        *,
        spares: int,
        disk_bytes: int,
    ) -> None:
        """`make` makes the successor of a zygote that died."""
        self._zygote = zygote
        self._make = make
        self._spares = spares
        self._disk_bytes = disk_bytes
        self._pool: Pool | None = None
        self._pool_changed = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self.restarts = 0

    @property
    def ready(self) -> int:
        """How many spares stand ready."""
        return self._pool.ready if self._pool else 0

    async def start(self) -> None:
        """Fill the pool; raises SpareFailed."""
        self._pool = await self._filled_pool(self._zygote)
        self._watcher = asyncio.create_task(self._replace_the_dead())

    def take_ready(self, *, disk_bytes: int) -> Spare | None:
        """A spare that stands ready, if there is one; the caller closes it."""
        return self._pool.take_ready(disk_bytes=disk_bytes) if self._pool else None

    async def take(self, *, disk_bytes: int) -> Spare:
        """A sandbox that waits for its program; the caller closes it.

        Raises SandboxUnavailable if the host makes none, SandboxClosed after the end.
        """
        while not self._closed:
            pool, zygote = self._pool, self._zygote
            if pool is None or zygote.dead.is_set():
                self._pool_changed.clear()
                await self._pool_changed.wait()
                continue
            try:
                return await pool.take(disk_bytes=disk_bytes)
            except (SpareFailed, SandboxClosed) as failure:
                if pool is self._pool and not zygote.dead.is_set():
                    raise SandboxUnavailable(str(failure)) from failure
        raise SandboxClosed("the sandbox is closed")

    def refill(self) -> None:
        """Start making the spares that are missing; does not wait."""
        if self._pool is not None:
            self._pool.refill()

    async def close(self) -> None:
        """Kill every spare and the zygote; returns when they are gone."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait({self._watcher})
        pool, self._pool = self._pool, None
        self._pool_changed.set()
        if pool is not None:
            await pool.close()
        await self._zygote.close()

    async def _replace_the_dead(self) -> None:
        while True:
            await self._zygote.dead.wait()
            pool, self._pool = self._pool, None
            await self._zygote.close()
            if pool is not None:
                await pool.close()
            self._pool = await self._new_pool(self._zygote.layers)
            self._pool_changed.set()
            self.restarts += 1

    async def _new_pool(self, layers: frozenset[Layer]) -> Pool:
        attempt = 0
        while True:
            self._zygote = self._make(layers)
            try:
                await self._zygote.start()
                return await self._filled_pool(self._zygote)
            except (SandboxUnavailable, SpareFailed, OSError):
                await self._zygote.close()
                await asyncio.sleep(_RESTART_SECONDS[min(attempt, len(_RESTART_SECONDS) - 1)])
                attempt += 1

    async def _filled_pool(self, zygote: ZygoteProcess) -> Pool:
        pool = Pool(zygote, size=self._spares, disk_bytes=self._disk_bytes)
        await pool.fill()
        return pool
