"""Keeps a zygote and its pool alive: a dead zygote is replaced, and whoever waits for a sandbox waits on.

All sandboxes of a zygote share the layout of its memory and its hash seed, which a program may learn: so a
zygote is replaced after some calls too, while it still works.
"""

import asyncio
from collections.abc import Callable

from interlock_sandbox.errors import SandboxClosed, SandboxUnavailable
from interlock_sandbox.levels import Layer
from interlock_sandbox.pool import Pool
from interlock_sandbox.spare import Spare, SpareFailed
from interlock_sandbox.zygote_process import ZygoteProcess

CALLS_OF_ONE = 2000
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
        calls_of_one: int = CALLS_OF_ONE,
    ) -> None:
        """`make` makes the successor of a zygote, which serves at most about `calls_of_one` calls."""
        self._zygote = zygote
        self._make = make
        self._spares = spares
        self._disk_bytes = disk_bytes
        self._pool: Pool | None = None
        self._pool_changed = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False
        self._calls_of_one = calls_of_one
        self._calls = 0
        self._renewal: asyncio.Task[None] | None = None
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

    def called(self) -> None:
        """Count a call; its zygote may have had enough."""
        self._calls += 1
        if self._calls >= self._calls_of_one and self._renewal is None and not self._closed:
            self._renewal = asyncio.create_task(self._renew())

    async def close(self) -> None:
        """Kill every spare and the zygote; returns when they are gone."""
        self._closed = True
        for task in (self._watcher, self._renewal):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        pool, self._pool = self._pool, None
        self._pool_changed.set()
        if pool is not None:
            await pool.close()
        await self._zygote.close()

    async def _replace_the_dead(self) -> None:
        while True:
            zygote = self._zygote
            await zygote.dead.wait()
            if zygote is not self._zygote:
                continue  # it has a successor already
            pool, self._pool = self._pool, None
            await self._zygote.close()
            if pool is not None:
                await pool.close()
            self._pool = await self._new_pool(self._zygote.layers)
            self._pool_changed.set()
            self.restarts += 1

    async def _renew(self) -> None:
        """Put a new zygote into the place of one that works; what runs there runs on to its end."""
        zygote = self._make(self._zygote.layers)
        try:
            await zygote.start()
            pool = await self._filled_pool(zygote)
        except (SandboxUnavailable, SpareFailed, OSError):
            await zygote.close()
            self._calls = 0  # the old one serves on, and after as many calls it is tried again
        except BaseException:
            await zygote.close()
            raise
        else:
            old, old_pool = self._zygote, self._pool
            self._zygote, self._pool, self._calls = zygote, pool, 0
            try:
                if old_pool is not None:
                    await old_pool.close()
                await old.wait_until_idle()
            finally:
                await old.close()
        self._renewal = None

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
