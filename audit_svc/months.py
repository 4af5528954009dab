"""Makes the partitions of the coming months before anything is recorded in them."""

import asyncio
from typing import Protocol

import structlog
from prometheus_client import Gauge

from svc_kit import metrics
from svc_kit.advisory import Leader
from svc_kit.database import Database

log = structlog.get_logger(__name__)

MONTHS_AHEAD = 3
_INTERVAL_SECONDS = 24 * 3600.0
_RETRY_SECONDS = 10.0

READY = Gauge(metrics.AUDIT_MONTHS_READY, "Months after this one that have a partition already.")


class MonthStore(Protocol):
    """What making months needs of the database."""

    async def make_months(self, ahead: int) -> int: ...


class MonthMaker:
    """Asks the database for the months ahead, at its start and daily, in one process of all replicas."""

    def __init__(self, database: Database, store: MonthStore) -> None:
        self._store = store
        self._leader = Leader(database, "audit months", self._keep_ready)

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        await self._leader.run()

    async def make(self) -> int:
        """Make what is missing; how many months after this one are ready then."""
        ready = await self._store.make_months(MONTHS_AHEAD)
        READY.set(ready)
        return ready

    async def _keep_ready(self) -> None:
        while True:
            try:
                await self.make()
            except Exception:
                # Said each time: after the last month that is ready nothing could be recorded any more.
                log.exception("months_not_made")
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                await asyncio.sleep(_INTERVAL_SECONDS)
