"""Ends streamed replies and waits when the server stops, so that nobody who watches holds up a drain."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import Unavailable
from svc_kit.interceptors.handlers import Incoming, ScopeInterceptor


class Drain:
    """Whether the server is stopping, and the calls that end by it."""

    def __init__(self) -> None:
        self.begun = False
        self._ended: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        """End all streams and waits with DRAINING, now and from now on."""
        self.begun = True
        for task in self._ended:
            task.cancel()

    def add(self, task: asyncio.Task[object]) -> None:
        """Have `task` cancelled when the drain begins."""
        self._ended.add(task)

    def remove(self, task: asyncio.Task[object]) -> None:
        """Leave `task` alone from now on."""
        self._ended.discard(task)


class DrainInterceptor(ScopeInterceptor):
    """Streams, and `waiting` methods, end with UNAVAILABLE DRAINING, to be resumed elsewhere.

    Every other call with a single reply runs to its end.
    """

    def __init__(self, drain: Drain, *, waiting: Collection[str] = ()) -> None:
        super().__init__()
        self._drain = drain
        self._waiting = waiting

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        task = asyncio.current_task()
        method = incoming.method
        if task is None or not (method.response_streaming or method.name in self._waiting):
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
