"""A database whose user dies at a chosen point: before any statement, before the commit, or just after it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection

from svc_kit.database import Database
from svc_kit.text_statements import PooledConnection


class Crash(Exception):
    """Here the process died."""


class CrashingDatabase(Database):
    """Crashes once, at the point that `crash_at` counts down to; 0 = not at all.

    Every statement and the end of every transaction are a point; the last of a transaction lies after its
    commit, so that whoever asked cannot know whether it happened.
    """

    crash_at = 0
    crashes = 0

    def point(self) -> None:
        """One more point is reached."""
        if self.crash_at:
            self.crash_at -= 1
            if not self.crash_at:
                self.crashes += 1
                raise Crash

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        async with super().transaction() as connection:
            yield cast(AsyncConnection, _Watched(connection, self))
            self.point()
        self.point()

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[PooledConnection]:
        async with super().autocommit() as connection:
            yield cast(PooledConnection, _Watched(connection, self))
            self.point()


class _Watched:
    """A connection whose statements are points."""

    def __init__(self, connection: AsyncConnection, database: CrashingDatabase) -> None:
        self._connection = connection
        self._database = database

    async def execute(self, *arguments: Any) -> Any:
        self._database.point()
        return await self._connection.execute(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
