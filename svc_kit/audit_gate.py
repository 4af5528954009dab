"""Whether a service takes new work: not while the audit log is too far behind."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Gauge

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit import metrics
from svc_kit.errors import Unavailable
from svc_kit.outbox import Backlog

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 1.0
# A count that is older than this says nothing any more.
_STALE_SECONDS = 30.0
_RETRY_SECONDS = 1.0

BACKLOG = Gauge(metrics.OUTBOX_BACKLOG, "Audit records that wait for delivery.")
OLDEST = Gauge(metrics.OUTBOX_OLDEST_SECONDS, "Age of the oldest audit record that waits.")


class AuditGate:
    """Refuses new work while more than `limit` audit records wait for delivery; what runs may finish.

    It also refuses while nobody knows how many do.
    """

    def __init__(
        self,
        backlog: Callable[[], Awaitable[Backlog]],
        *,
        limit: int,
        interval: float = INTERVAL_SECONDS,
        stale: float = _STALE_SECONDS,
    ) -> None:
        self._backlog = backlog
        self._limit = limit
        self._interval = interval
        self._stale = stale
        self._count = 0
        self._known_until = 0.0

    def check(self) -> None:
        """Raises AUDIT_BACKLOG."""
        if time.monotonic() > self._known_until:
            raise _refused("how many audit records wait for delivery is not known", {})
        if self._count > self._limit:
            said = f"{self._count} audit records wait for delivery, more than the {self._limit} allowed"
            raise _refused(said, {"count": str(self._count), "limit": str(self._limit)})

    async def look(self) -> Backlog:
        """Read how much waits."""
        found = await self._backlog()
        self._count = found.count
        self._known_until = time.monotonic() + self._stale
        BACKLOG.set(found.count)
        OLDEST.set(found.oldest_seconds)
        return found

    async def open(self) -> None:
        """Look once, before anybody asks; a database that is away is no reason not to start."""
        with contextlib.suppress(Unavailable):  # then nothing is stored either
            await self.look()

    async def run(self) -> None:
        """Look once a second, for ever; ends by cancellation."""
        while True:
            try:
                await self.open()
            except Exception:
                log.exception("backlog_unknown")
            await asyncio.sleep(self._interval)


def _refused(said: str, metadata: dict[str, str]) -> Unavailable:
    return Unavailable(
        ErrorReason.ERROR_REASON_AUDIT_BACKLOG,
        f"{said}; no new work is taken",
        metadata=metadata,
        retry_after=_RETRY_SECONDS,
    )
