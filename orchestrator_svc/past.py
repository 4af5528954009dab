"""The log read again by those who take up a watch of many tasks, once for all of them."""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from orchestrator_svc.errors import cursor_compacted
from orchestrator_svc.records import Occurrence, Task, Window

Read = tuple[Window, dict[UUID, Task]]

_POSITIONS = 500
_KEPT = 16


class LogWindows(Protocol):
    """What is asked of the store, which says what each does."""

    async def window(self, *, after: int, through: int) -> Window: ...
    async def tasks(self, task_ids: Sequence[UUID]) -> dict[UUID, Task]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of the log, with the tasks that it tells of."""

    occurrences: Sequence[Occurrence]
    tasks: dict[UUID, Task]


class Past:
    """Parts of the log of equal length, so that many who come back at once ask for the same ones.

    A part that is being read is read once for all who want it, and the last few are kept.
    """

    def __init__(self, store: LogWindows) -> None:
        self._store = store
        self._reads: OrderedDict[tuple[int, int], asyncio.Task[Read]] = OrderedDict()

    async def stretch(self, *, after: int, through: int) -> Stretch:
        """What follows a position, at most up to a later one that is committed; raises REVISION_COMPACTED.

        There is always something, since positions have no gaps.
        """
        start = after - after % _POSITIONS
        end = min(start + _POSITIONS, through)
        window, tasks = await self._read(start, end)
        fresh = [each for each in window.occurrences if each.stored.position > after]
        if after < window.edge or not fresh:
            raise cursor_compacted()
        return Stretch(occurrences=fresh, tasks=tasks)

    async def _read(self, start: int, end: int) -> Read:
        key = (start, end)
        read = self._reads.get(key)
        if read is None or (read.done() and (read.cancelled() or read.exception() is not None)):
            # An empty context: the read belongs to no single caller, who may all leave before it ends.
            read = asyncio.create_task(self._window(start, end), context=contextvars.Context())
            read.add_done_callback(_seen)
            self._reads[key] = read
        self._reads.move_to_end(key)
        while len(self._reads) > _KEPT:
            self._reads.popitem(last=False)
        return await asyncio.shield(read)

    async def _window(self, start: int, end: int) -> Read:
        window = await self._store.window(after=start, through=end)
        wanted = {each.stored.event.task_id for each in window.occurrences}
        return window, await self._store.tasks(list(wanted)) if wanted else {}


def _seen(read: "asyncio.Task[Read]") -> None:
    if not read.cancelled():
        read.exception()
