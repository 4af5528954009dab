"""Step 1: so many calls at a time, so many that wait, and no more."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from gateway_svc.errors import draining, no_time_left, overloaded
from gateway_svc.pipeline.turns import Turns

_RETRY_SECONDS = 0.25


class Admission:
    """Counts requests and flights, and hands out the places of execution; tenants that wait take turns."""

    def __init__(self, *, running: int, waiting: int) -> None:
        self._most = running + waiting
        # What one tenant leaves to the others, however much it asks for.
        self._most_of_one = running + (waiting + 1) // 2
        self._places = Turns(running)
        self._inside = 0
        self._flying: Counter[str] = Counter()
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
    def flight(self, tenant: str) -> Iterator[None]:
        """One call, whoever still waits for it: callers that go away make no room; raises OVERLOADED."""
        if self._flying.total() >= self._most or self._flying[tenant] >= self._most_of_one:
            raise overloaded(_RETRY_SECONDS)
        self._flying[tenant] += 1
        try:
            yield
        finally:
            self._flying[tenant] -= 1
            if not self._flying[tenant]:
                del self._flying[tenant]

    @asynccontextmanager
    async def place(self, tenant: str, seconds: float) -> AsyncIterator[None]:
        """A place for one execution; waits at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._places.take(tenant)
        except TimeoutError:
            raise no_time_left() from None
        try:
            yield
        finally:
            self._places.give_back()
