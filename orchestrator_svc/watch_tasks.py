"""Watching many tasks: the list as it is, then every change in the order of the commits."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator_svc import filtering
from orchestrator_svc.cursors import Mark, Scope, Standing, encode, mark_after, standing
from orchestrator_svc.errors import cursor_compacted, log_replaced, slow_list_consumer
from orchestrator_svc.filtering import Selection
from orchestrator_svc.hub import Change, Hub, ListTail, change
from orchestrator_svc.past import Past
from orchestrator_svc.records import LogPlace, Place, Task
from svc_kit.filters import Condition

_PAGE = 500
_PART = 100


class ListedTasks(Protocol):
    """What is asked of the store, which says what each does."""

    async def place(self, position: int) -> LogPlace: ...
    async def page_at(
        self, tenant: str, conditions: Sequence[Condition], *, after: Place | None, limit: int
    ) -> tuple[Mark, list[Task]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPart:
    """A part of the list."""

    tasks: list[Task]
    first: bool
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ListUpdate:
    """A part of the list, some changes, or nothing; and the cursor after it, empty until there is one."""

    content: ListPart | list[Change] | None
    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The tasks of one page of the snapshot, down to `until`, were read when the log ended at `position`."""

    until: Place | None
    position: int


class TaskListWatches:
    """Streams of what happens to the tasks that a filter names."""

    def __init__(
        self, *, hub: Hub, store: ListedTasks, past: Past, bookmark_seconds: float, flush_seconds: float
    ) -> None:
        self._hub = hub
        self._store = store
        self._past = past
        self._bookmark_seconds = bookmark_seconds
        self._flush_seconds = flush_seconds

    async def watch(self, scope: Scope, cursor: Mark | None, *, from_now: bool) -> AsyncGenerator[ListUpdate]:
        """Without a cursor the list first, unless `from_now`; does not end.

        Raises FILTER_INVALID, CURSOR_INVALID, REVISION_COMPACTED or SLOW_CONSUMER.
        """
        conditions = filtering.watched_conditions(scope.filter)
        selection = Selection(conditions)
        tail = await self._hub.join_list(scope.tenant, selection)
        try:
            joined = self._hub.mark
            if cursor is not None:
                await self._check(cursor)
                stream = _Stream(scope, tail, cursor)
            elif from_now:
                stream = _Stream(scope, tail, joined)
                yield stream.bookmark()
            else:
                stream = _Stream(scope, tail, joined)
                async for update in self._snapshot(stream, conditions):
                    yield update
            # What came before the tail was joined is read from the store, as is what it could not hold.
            stream.behind = stream.at.position < joined.position or tail.overflowed
            async for update in self._follow(stream):
                yield update
        finally:
            self._hub.leave_list(tail)

    async def _check(self, cursor: Mark) -> None:
        match standing(cursor, await self._store.place(cursor.position)):
            case Standing.UNKNOWN:
                raise log_replaced()
            case Standing.COMPACTED:
                raise cursor_compacted()
            case Standing.KNOWN:
                return

    async def _snapshot(
        self, stream: "_Stream", conditions: Sequence[Condition]
    ) -> AsyncGenerator[ListUpdate]:
        after: Place | None = None
        first = True
        more = True
        while more:
            mark, page = await self._store.page_at(
                stream.scope.tenant, conditions, after=after, limit=_PAGE + 1
            )
            more = len(page) > _PAGE
            page = page[:_PAGE]
            after = Place(create_time=page[-1].create_time, task_id=page[-1].task_id) if more else None
            stream.read_page(mark, after)
            for start in range(0, max(1, len(page)), _PART):
                last = not more and start + _PART >= len(page)
                part = ListPart(tasks=page[start : start + _PART], first=first, last=last)
                yield ListUpdate(content=part, cursor=stream.cursor() if last else "")
                first = False

    async def _follow(self, stream: "_Stream") -> AsyncGenerator[ListUpdate]:
        clock = asyncio.get_running_loop().time
        tail, quiet, flushed = stream.tail, False, 0.0
        while True:
            if tail.lost:
                raise log_replaced()
            if stream.behind:
                async for update in self._catch_up(stream):
                    yield update
                continue
            # Taken together: what the buffer holds, whether that is all, and up to where it is all.
            taken, whole, mark = tail.take_all(), not tail.overflowed, self._hub.mark
            if not taken and not whole:
                raise slow_list_consumer(stream.cursor())
            for update in stream.tell(taken):
                yield update
                quiet, flushed = False, clock()
            if whole:
                stream.reach(mark)
            if quiet:
                quiet = False
                yield stream.bookmark()
            if not taken:
                quiet = not await tail.wait(self._bookmark_seconds)
                # What comes shortly after a flush waits for more to come.
                await asyncio.sleep(max(0.0, flushed + self._flush_seconds - clock()))

    async def _catch_up(self, stream: "_Stream") -> AsyncGenerator[ListUpdate]:
        """From where the stream stands to where the hub does; what the buffer lost is read as well."""
        if stream.tail.overflowed:
            stream.tail.restart()
        through = self._hub.mark.position
        while stream.at.position < through:
            stretch = await self._past.stretch(after=stream.at.position, through=through)
            found = (
                change(stream.tail.selection, each, stretch.tasks)
                for each in stretch.occurrences
                if each.stored.event.tenant == stream.scope.tenant
            )
            for update in stream.tell([offered for offered in found if offered is not None]):
                yield update
            stream.reach(mark_after(stream.at.log_id, stretch.occurrences[-1].stored))
        stream.behind = stream.tail.overflowed


class _Stream:
    """Where one stream stands."""

    def __init__(self, scope: Scope, tail: ListTail, at: Mark) -> None:
        self.scope = scope
        self.tail = tail
        self.at = at
        self.behind = False
        self._sections: list[Section] = []

    def read_page(self, mark: Mark, until: Place | None) -> None:
        """The next page of the snapshot was read when the log ended at `mark`; it goes down to `until`."""
        if not self._sections:
            self.at = mark
        self._sections.append(Section(until=until, position=mark.position))
        self._forget_sections()

    def reach(self, mark: Mark) -> None:
        """Everything up to there has been told."""
        if mark.position > self.at.position:
            self.at = mark
            self._forget_sections()

    def tell(self, changes: Sequence[Change]) -> Iterator[ListUpdate]:
        """Those that have not been told, and do not stand in the snapshot already."""
        fresh = [each for each in changes if each.stored.position > self._told_until(each.task)]
        for start in range(0, len(fresh), _PART):
            part = fresh[start : start + _PART]
            self.reach(mark_after(self.at.log_id, part[-1].stored))
            yield ListUpdate(content=part, cursor=self.cursor())

    def bookmark(self) -> ListUpdate:
        """Nothing has happened up to here."""
        return ListUpdate(content=None, cursor=self.cursor())

    def cursor(self) -> str:
        """Where to resume; empty while the pages of the snapshot stand at different positions."""
        return "" if self._sections else encode(self.at, self.scope)

    def _told_until(self, task: Task) -> int:
        place = (task.create_time, task.task_id)
        for section in self._sections:
            if section.until is None or place >= (section.until.create_time, section.until.task_id):
                return max(section.position, self.at.position)
        return self.at.position

    def _forget_sections(self) -> None:
        """Once the stream has come to where the last page was read, the snapshot is whole."""
        last = self._sections[-1] if self._sections else None
        if last is not None and last.until is None and self.at.position >= last.position:
            self._sections.clear()
