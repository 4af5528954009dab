"""Ends streamed replies when the server stops, so that no watcher holds up a drain."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import Unavailable
from svc_kit.interceptors.handlers import Incoming, ScopeInterceptor


class Drain:
    """Whether the server is stopping, and the streams that end by it."""

    def __init__(self) -> None:
        self.begun = False
        self._streams: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        """End all streams with DRAINING, now and from now on."""
        self.begun = True
        for task in self._streams:
            task.cancel()

    def add(self, task: asyncio.Task[object]) -> None:
        """Have `task` cancelled when the drain begins."""
        self._streams.add(task)

    def remove(self, task: asyncio.Task[object]) -> None:
        """Leave `task` alone from now on."""
        self._streams.discard(task)


class DrainInterceptor(ScopeInterceptor):
    """Streams end with UNAVAILABLE DRAINING, to be resumed elsewhere; single replies run to their end."""

    def __init__(self, drain: Drain) -> None:
        super().__init__()
        self._drain = drain

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        task = asyncio.current_task()
        if not incoming.method.response_streaming or task is None:
            yield
            return
        if self._drain.begun:
            raise _draining()
        self._drain.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # The client may have gone in the same moment; then the answer goes nowhere, which does no harm.
            if not self._drain.begun:
                raise
            task.uncancel()
            raise _draining() from None
        finally:
            self._drain.remove(task)


def _draining() -> Unavailable:
    return Unavailable(
        ErrorReason.ERROR_REASON_DRAINING,
        "the service is stopping; resume with another call",
        retry_after=0.5,
    )
