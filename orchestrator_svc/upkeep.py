"""Forgets what is kept for a time: what repeats are known by, and events of tasks that ended long ago."""

import asyncio
from typing import Protocol

import structlog

from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

_SLICE = 1000


class UpkeepStore(Protocol):
    """Deletes old rows."""

    async def forget(self, *, hours: int, limit: int) -> int: ...
    async def compact(self, *, after: int, hours: int, limit: int) -> int | None: ...


class Upkeep:
    """Once a minute, in slices: request ids, claim ids, ended sessions and events that are old enough."""

    def __init__(self, store: UpkeepStore, *, hours: int, event_hours: int, interval: float = 60.0) -> None:
        self._store = store
        self._hours = hours
        self._event_hours = event_hours
        self._interval = interval

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            try:
                await self.once()
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("upkeep_failed")
            await asyncio.sleep(self._interval)

    async def once(self) -> None:
        """Everything that is old enough now."""
        while await self._store.forget(hours=self._hours, limit=_SLICE) >= _SLICE:
            pass
        scanned: int | None = 0
        while scanned is not None:
            scanned = await self._store.compact(after=scanned, hours=self._event_hours, limit=_SLICE)
