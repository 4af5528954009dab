"""Whether new work is taken: not while the audit log is too far behind."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from orchestrator_svc import metrics
from orchestrator_svc.errors import audit_backlog
from svc_kit.errors import Unavailable
from svc_kit.outbox import Backlog

log = structlog.get_logger(__name__)


class AuditGate:
    """Refuses new tasks while more than `limit` audit records wait for delivery; running ones may finish."""

    def __init__(
        self, backlog: Callable[[], Awaitable[Backlog]], *, limit: int, interval: float = 1.0
    ) -> None:
        self._backlog = backlog
        self._limit = limit
        self._interval = interval
        self._count = 0

    def check(self) -> None:
        """Raises AUDIT_BACKLOG."""
        if self._count > self._limit:
            raise audit_backlog(self._count, self._limit)

    async def look(self) -> Backlog:
        """Read how much waits."""
        found = await self._backlog()
        self._count = found.count
        metrics.BACKLOG.set(found.count)
        metrics.OLDEST.set(found.oldest_seconds)
        return found

    async def run(self) -> None:
        """Look once a second, for ever; ends by cancellation."""
        while True:
            try:
                await self.look()
            except Unavailable:
                pass  # then nothing is stored either
            except Exception:
                log.exception("backlog_unknown")
            await asyncio.sleep(self._interval)
