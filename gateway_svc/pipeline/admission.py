"""Step 1: so many calls at a time, so many that wait, and no more."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from gateway_svc.errors import draining, no_time_left, overloaded

_RETRY_SECONDS = 0.25


class Admission:
    """Counts requests and flights, and hands out the places of execution, first come first served."""

    def __init__(self, *, running: int, waiting: int) -> None:
        self._most = running + waiting
        self._places = asyncio.Semaphore(running)
        self._inside = 0
        self._flying = 0
        self._closed = False

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True

    @contextmanager
    def door(self) -> Iterator[None]:
        """One request, whatever becomes of it; raises OVERLOADED with a time to come back, or DRAINING."""
        if self._closed:
            raise draining()
        if self._inside >= self._most:
            raise overloaded(_RETRY_SECONDS)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    @contextmanager
    def flight(self) -> Iterator[None]:
        """One call, whoever still waits for it: callers that go away make no room; raises OVERLOADED."""
        if self._flying >= self._most:
            raise overloaded(_RETRY_SECONDS)
        self._flying += 1
        try:
            yield
        finally:
            self._flying -= 1

    @asynccontextmanager
    async def place(self, seconds: float) -> AsyncIterator[None]:
        """A place for one execution; waits at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            raise no_time_left() from None
        try:
            yield
        finally:
            self._places.release()
