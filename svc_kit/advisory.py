"""One leader per database, by a session advisory lock."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable

import psycopg
import structlog

from interlock.common.cancellation import end
from svc_kit.database import Connection, Database
from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

# How long the connection that holds the lock may stay silent before leadership counts as lost.
SILENCE_SECONDS = 5.0
# How long the database hears nothing of a leader before it lets others lead: a process that hangs keeps its
# connection, and would keep the lock for as long as it hangs.
HANG_SECONDS = 10.0


def lock_key(name: str) -> int:
    """The signed 64-bit advisory lock key of a name; the same in every process and release."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


class Leader:
    """Runs `work` in exactly one of the processes that share a database.

    The lock lives on a connection of its own: a connection that is lost is leadership lost, and `work` is
    cancelled. For a moment (a partitioned network) the old leader may still run beside the new one, so `work`
    must bear being done twice.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        retry_seconds: float = 1.0,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        self._database = database
        self._name = name
        self._work = work
        self._retry_seconds = retry_seconds
        self._hang_seconds = hang_seconds
        self.leading = False

    async def run(self) -> None:
        """For ever: wait to be leader, work, and stand again after a loss; ends only by cancellation."""
        while True:
            try:
                async with self._database.dedicated(f"leader {self._name}") as connection:
                    await self._acquire(connection)
                    await self._lead(connection)
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("leader_failed", leader=self._name)
            await asyncio.sleep(self._retry_seconds)

    async def _acquire(self, connection: Connection) -> None:
        await connection.execute(
            "SELECT set_config('idle_session_timeout', %s, false)", [f"{self._hang_seconds * 1000:.0f}ms"]
        )
        while True:
            cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", [lock_key(self._name)])
            if await cursor.fetchone() == (True,):
                return
            await asyncio.sleep(self._retry_seconds)

    async def _lead(self, connection: Connection) -> None:
        log.info("leading", leader=self._name)
        self.leading = True
        work = asyncio.ensure_future(self._work())
        watch = asyncio.ensure_future(_until_lost(connection, self._retry_seconds))
        try:
            await asyncio.wait([work, watch], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.leading = False
            await end(work, watch)
        log.warning("leadership_ended", leader=self._name, connection_lost=not watch.cancelled())
        if not work.cancelled():
            work.result()


async def _until_lost(connection: Connection, beat_seconds: float) -> None:
    """Returns when the connection is gone: at once on a hang-up, else at the first beat without answer."""
    with contextlib.suppress(psycopg.Error, TimeoutError):
        while True:
            # Waits on the socket; nothing is listened for, but a hang-up ends it.
            async for _ in connection.notifies(timeout=beat_seconds):
                pass
            async with asyncio.timeout(SILENCE_SECONDS):
                await connection.execute("SELECT 1")
