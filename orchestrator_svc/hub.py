"""One reader of the log per process, and any number of watchers fed by it."""

import asyncio
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog

from orchestrator_svc.cursors import NO_EVENT, Mark, Standing, event_digest, mark_after, standing
from orchestrator_svc.filtering import Selection
from orchestrator_svc.records import LogPlace, Occurrence, Progress, StoredEvent, Task
from svc_kit.errors import Unavailable
from svc_kit.wakeup import Subscription

log = structlog.get_logger(__name__)

Item = TypeVar("Item")

_SLICE = 500
_FAILED_SECONDS = 0.2


class LogStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def head(self) -> Mark: ...
    async def place(self, position: int) -> LogPlace: ...
    async def tail(self, *, start: int, limit: int) -> list[Occurrence]: ...
    async def tasks(self, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Task]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An event as a selection of tasks sees it: its task begins or ceases to belong, or neither."""

    stored: StoredEvent
    task: Task
    entered: bool
    left: bool


class Tail(Generic[Item]):
    """What comes for one watcher, in a bounded buffer.

    When the watcher takes less than comes, `overflowed` is set and nothing more is kept: the store has it.
    `lost` says that the log itself has been replaced by another history.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self.overflowed = False
        self.lost = False
        # What the live attempt said last, until the watcher takes it: only the last word counts.
        self._said: Progress | None = None

    def say(self, progress: Progress) -> None:
        """Called by the feed of progress; never waits."""
        self._said = progress
        self._arrived.set()

    def take_said(self) -> Progress | None:
        """The last word, if it is new."""
        said, self._said = self._said, None
        return said

    def put(self, item: Item) -> None:
        """Called by the hub; never waits."""
        if self.overflowed:
            return
        if len(self._items) == self._limit:
            self.overflowed = True
        else:
            self._items.append(item)
        self._arrived.set()

    def lose(self) -> None:
        """Called by the hub: nothing more comes."""
        self.lost = True
        self._arrived.set()

    def take(self) -> Item | None:
        """The next one, if there is one."""
        return self._items.popleft() if self._items else None

    def take_all(self) -> list[Item]:
        """Everything that is there."""
        items = list(self._items)
        self._items.clear()
        return items

    def restart(self) -> None:
        """Forget what is buffered; the watcher reads it from the store."""
        self._items.clear()
        self.overflowed = False
        self._arrived.clear()

    async def wait(self, seconds: float) -> bool:
        """Whether something arrived within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return False
        self._arrived.clear()
        return True


class ListTail(Tail[Change]):
    """The live changes of the tasks of a tenant that a selection takes."""

    def __init__(self, tenant: str, selection: Selection, limit: int) -> None:
        super().__init__(limit)
        self.tenant = tenant
        self.selection = selection


class Hub:
    """Reads every new event once and hands it to those who watch its task, or a list that it belongs to.

    It reads while there are watchers, and begins at the end of the log as it stood before the first of them
    read anything: so each event is in what a watcher reads for itself, or comes through here, or both.
    """

    def __init__(
        self, store: LogStore, woken: Subscription, *, buffer: int, list_buffer: int, poll: float = 1.0
    ) -> None:
        self._store = store
        self._woken = woken
        self._buffer = buffer
        self._list_buffer = list_buffer
        self._poll = poll
        self._tails: dict[uuid.UUID, set[Tail[StoredEvent]]] = {}
        self._lists: dict[str, set[ListTail]] = {}
        self._mark: Mark | None = None
        self._starting = asyncio.Lock()

    @property
    def watchers(self) -> int:
        """How many there are."""
        return sum(map(len, self._tails.values())) + sum(map(len, self._lists.values()))

    @property
    def mark(self) -> Mark:
        """Up to where everything was handed out; only while there are watchers."""
        if self._mark is None:
            raise RuntimeError("the hub stands nowhere without watchers")
        return self._mark

    async def join(self, task_id: uuid.UUID) -> Tail[StoredEvent]:
        """A tail of the task's events from now on; give it back with `leave`."""
        tail: Tail[StoredEvent] = Tail(self._buffer)
        self._tails.setdefault(task_id, set()).add(tail)
        try:
            await self._start()
        except BaseException:
            self.leave(task_id, tail)
            raise
        return tail

    def leave(self, task_id: uuid.UUID, tail: Tail[StoredEvent]) -> None:
        """The watcher is gone."""
        tails = self._tails.get(task_id, set())
        tails.discard(tail)
        if not tails:
            self._tails.pop(task_id, None)

    async def join_list(self, tenant: str, selection: Selection) -> ListTail:
        """A tail of every change after `mark`, as that stands on return; give it back with `leave_list`."""
        tail = ListTail(tenant, selection, self._list_buffer)
        self._lists.setdefault(tenant, set()).add(tail)
        try:
            await self._start()
        except BaseException:
            self.leave_list(tail)
            raise
        return tail

    def leave_list(self, tail: ListTail) -> None:
        """The watcher is gone."""
        tails = self._lists.get(tail.tenant, set())
        tails.discard(tail)
        if not tails:
            self._lists.pop(tail.tenant, None)

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            try:
                more = await self._read()
            except Unavailable:
                more = False
                await asyncio.sleep(_FAILED_SECONDS)
            except Exception:
                log.exception("watch_hub_failed")
                more = False
                await asyncio.sleep(_FAILED_SECONDS)
            if not more:
                await self._woken.wait(self._poll)

    async def _start(self) -> None:
        async with self._starting:
            if self._mark is None:
                self._mark = await self._store.head()
                self._woken.wake()

    async def _read(self) -> bool:
        """Hand out a slice; whether there may be more."""
        if not self._tails and not self._lists:
            self._mark = None
        mark = self._mark
        if mark is None:
            return False
        found = await self._store.tail(start=mark.position, limit=_SLICE + 1)
        fresh = await self._after(mark, found)
        if fresh is None:
            self._lose_all()
            return False
        for occurrence in fresh:
            for tail in self._tails.get(occurrence.stored.event.task_id, ()):
                tail.put(occurrence.stored)
        tasks = await self._listed_tasks(fresh)
        # From here to the new mark nobody else gets a turn, so that the lists stand just where it says.
        for occurrence in fresh:
            for listing in self._lists.get(occurrence.stored.event.tenant, ()):
                offered = change(listing.selection, occurrence, tasks)
                if offered is not None:
                    listing.put(offered)
        if fresh:
            self._mark = mark_after(mark.log_id, fresh[-1].stored)
        return len(found) > _SLICE

    async def _after(self, mark: Mark, found: Sequence[Occurrence]) -> Sequence[Occurrence] | None:
        """Those after the mark, whose own event comes first; None when the log is not the one it was."""
        first = found[0].stored if found else None
        there = first is not None and first.position == mark.position
        if first is not None and there:
            digest = event_digest(first.event.task_id, first.event.revision)
            return found[1:] if mark.event in (digest, NO_EVENT) else None
        if mark.event != NO_EVENT:
            place = await self._store.place(mark.position)
            if standing(mark, place) is Standing.UNKNOWN:
                return None
        return found

    async def _listed_tasks(self, fresh: Sequence[Occurrence]) -> dict[uuid.UUID, Task]:
        """The tasks of tenants with lists; also of those that have joined while they were read."""
        tasks: dict[uuid.UUID, Task] = {}
        read: set[str] = set()
        while tenants := self._lists.keys() - read:
            read |= tenants
            wanted = {each.stored.event.task_id for each in fresh if each.stored.event.tenant in tenants}
            if wanted:
                tasks |= await self._store.tasks(list(wanted))
        return tasks

    def _lose_all(self) -> None:
        """The database was put back to an earlier time under us: every watcher has to begin anew."""
        log.warning("event_log_replaced", watchers=self.watchers)
        for tails in self._tails.values():
            for tail in tails:
                tail.lose()
        for lists in self._lists.values():
            for listing in lists:
                listing.lose()
        self._tails.clear()
        self._lists.clear()
        self._mark = None


def change(selection: Selection, occurrence: Occurrence, tasks: dict[uuid.UUID, Task]) -> Change | None:
    """What an occurrence means for a selection; None when it means nothing."""
    event = occurrence.stored.event
    task = tasks.get(event.task_id)
    if task is None or not selection.takes(task):
        return None
    within = selection.takes_state(event.state)
    if occurrence.was is None and event.revision > 1:
        # What came before is no longer kept: the change is told as if it were one.
        was_within = not within
    else:
        was_within = selection.takes_state(occurrence.was)
    if not within and not was_within:
        return None
    return Change(
        stored=occurrence.stored, task=task, entered=within and not was_within, left=was_within and not within
    )
