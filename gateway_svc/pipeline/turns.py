"""So many places, handed out to the tenants that wait for one in turn."""

import asyncio
from collections import OrderedDict, deque


class Turns:
    """A tenant that asks for much waits for its own calls, and others do not wait for them."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, tenant: str) -> None:
        """Return with a place; a wait that is cancelled leaves none behind."""
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise

    def give_back(self) -> None:
        """The place goes to the tenant whose last turn is the longest ago."""
        while self._waiting:
            tenant, turns = self._waiting.popitem(last=False)
            while turns and turns[0].done():
                turns.popleft()  # it is not waited for any more
            if not turns:
                continue
            turns.popleft().set_result(None)
            if turns:
                self._waiting[tenant] = turns
            return
        self._free += 1
