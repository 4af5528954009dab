"""A bounded queue of waiting rows that is fair between tenants."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[Row, Result]):
    """One row, and the caller who waits for its result."""

    row: Row
    tenant: str
    size: int
    reply: "asyncio.Future[Result]"


class FairQueue(Generic[Row, Result]):
    """Waiting rows by tenant; batches take one row of each tenant in turn."""

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._tenants: dict[str, deque[Waiting[Row, Result]]] = {}
        self._turns: deque[str] = deque()
        self._bytes_of: dict[str, int] = {}
        self.rows = 0
        self.bytes = 0

    def put(self, waiting: Waiting[Row, Result]) -> list[Waiting[Row, Result]]:
        """Add a row; the rows that have to go for it are returned.

        When the queue is full, the tenant that holds most of it gives way with its newest row, so that a
        tenant that floods is refused and the others are not.
        """
        lane = self._tenants.get(waiting.tenant)
        if lane is None:
            lane = self._tenants[waiting.tenant] = deque()
            self._turns.append(waiting.tenant)
        lane.append(waiting)
        self._count(waiting, 1)
        refused = []
        while self.rows > self._max_rows or (self.bytes > self._max_bytes and self.rows > 1):
            refused.append(self._give_way(by_bytes=self.rows <= self._max_rows))
        return refused

    def take(self, max_rows: int, max_bytes: int) -> list[Waiting[Row, Result]]:
        """The next batch, oldest rows of each tenant first; a row larger than `max_bytes` goes alone."""
        batch: list[Waiting[Row, Result]] = []
        size = 0
        while self._turns and len(batch) < max_rows:
            tenant = self._turns[0]
            lane = self._tenants[tenant]
            if batch and size + lane[0].size > max_bytes:
                break
            waiting = lane.popleft()
            self._count(waiting, -1)
            self._turns.popleft()
            if lane:
                self._turns.append(tenant)
            else:
                self._forget(tenant)
            if not waiting.reply.done():  # else its caller was cancelled or refused
                batch.append(waiting)
                size += waiting.size
        return batch

    def take_all(self) -> list[Waiting[Row, Result]]:
        """Everything that waits."""
        return self.take(max_rows=self.rows, max_bytes=self.bytes + 1)

    def _give_way(self, *, by_bytes: bool) -> Waiting[Row, Result]:
        weight = self._bytes_of if by_bytes else {tenant: len(lane) for tenant, lane in self._tenants.items()}
        heaviest = max(weight, key=weight.__getitem__)
        waiting = self._tenants[heaviest].pop()
        self._count(waiting, -1)
        if not self._tenants[heaviest]:
            self._turns.remove(heaviest)
            self._forget(heaviest)
        return waiting

    def _count(self, waiting: Waiting[Row, Result], sign: int) -> None:
        self.rows += sign
        self.bytes += sign * waiting.size
        self._bytes_of[waiting.tenant] = self._bytes_of.get(waiting.tenant, 0) + sign * waiting.size

    def _forget(self, tenant: str) -> None:
        del self._tenants[tenant]
        del self._bytes_of[tenant]
