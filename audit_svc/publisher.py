"""Keeps the newest checkpoint of every log less than a second old."""

import asyncio

import structlog

from audit_svc.checkpoints import Checkpoints
from audit_svc.key_rotation import KeyRotation
from svc_kit.advisory import Leader
from svc_kit.database import Database
from svc_kit.errors import DomainError

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.5


class Publisher:
    """Signs and archives what is new, and ends changes of key, in one process of all replicas."""

    def __init__(
        self,
        database: Database,
        checkpoints: Checkpoints,
        rotation: KeyRotation,
        *,
        interval: float = INTERVAL_SECONDS,
    ) -> None:
        self._checkpoints = checkpoints
        self._rotation = rotation
        self._interval = interval
        self._leader = Leader(database, "audit checkpoints", self._publish)

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        await self._leader.run()

    async def _publish(self) -> None:
        while True:
            try:
                await self._rotation.complete()
                await self._checkpoints.publish()
            except (DomainError, OSError) as error:
                # The database is away or the archive's disk is full: said each time, tried again soon.
                log.warning("checkpoints_not_published", error=str(error))
            await asyncio.sleep(self._interval)
