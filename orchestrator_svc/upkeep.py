"""Forgets what is kept only to know repeats by."""

import asyncio
from typing import Protocol

import structlog

from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

_SLICE = 1000


class UpkeepStore(Protocol):
    """Deletes old rows."""

    async def forget(self, *, hours: int, limit: int) -> int: ...


class Upkeep:
    """Once a minute, in slices: request ids, claim ids and ended sessions that are old enough."""

    def __init__(self, store: UpkeepStore, *, hours: int, interval: float = 60.0) -> None:
        self._store = store
        self._hours = hours
        self._interval = interval

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            try:
                while await self._store.forget(hours=self._hours, limit=_SLICE) >= _SLICE:
                    pass
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("upkeep_failed")
            await asyncio.sleep(self._interval)
