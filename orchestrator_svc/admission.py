"""Whether a queue takes a new task: its bound, its keys, and who has to make room."""

import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import concurrency_key_busy, queue_full, queue_not_found
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.placement import Strategy
from orchestrator_svc.records import NOT_PLACED, LockedTask, NewTask, NotPlaced, Stored
from orchestrator_svc.tasks import cancel
from svc_kit.errors import DomainError

QueueName = tuple[str, str]  # tenant, name
KeyName = tuple[str, str, str]  # tenant, queue, concurrency key


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a locked queue takes; `waiting` is counted up to `max_waiting`."""

    max_waiting: int | None
    max_running_per_key: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A task that has not ended, of a concurrency key."""

    task_id: uuid.UUID
    state: TaskState


class AdmissionStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def reserve(self, connection: AsyncConnection, rows: Sequence[NewTask]) -> set[uuid.UUID]: ...
    async def release(self, connection: AsyncConnection, rows: Sequence[NewTask]) -> None: ...
    async def lock_queues(
        self, connection: AsyncConnection, names: Collection[QueueName], *, keyed: Collection[QueueName]
    ) -> dict[QueueName, Bounds]: ...
    async def holders(
        self, connection: AsyncConnection, keys: Collection[KeyName]
    ) -> dict[KeyName, list[Holder]]: ...
    async def lock(
        self, connection: AsyncConnection, task_ids: Collection[uuid.UUID]
    ) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...
    async def store(
        self, connection: AsyncConnection, rows: Sequence[NewTask]
    ) -> list[Stored | NotPlaced | None]: ...


@dataclass(slots=True)
class _Room:
    """What the rows of a batch have taken so far."""

    queues: Mapping[QueueName, Bounds]
    holders: Mapping[KeyName, list[Holder]]
    stored: Counter[QueueName] = field(default_factory=Counter)
    of_key: Counter[KeyName] = field(default_factory=Counter)
    victims: dict[uuid.UUID, str] = field(default_factory=dict)  # task → who made it one


class Admission:
    """Decides under the locks of the queues, so that bounds are exact whoever else submits."""

    def __init__(self, *, store: AdmissionStore, announcer: Announcer, grace: float) -> None:
        self._store = store
        self._announcer = announcer
        self._grace = grace  # seconds in which an attempt has to wind up

    async def admit(self, rows: Sequence[NewTask]) -> list[Stored | DomainError | None]:
        """What became of each: stored, known from before (None), or refused.

        The refusals are QUEUE_NOT_FOUND, QUEUE_FULL and CONCURRENCY_KEY_BUSY.
        """
        results: list[Stored | DomainError | None] = [None] * len(rows)
        async with self._store.transaction() as connection:
            names = {_queue(row) for row in rows}
            queues = await self._store.lock_queues(
                connection, names, keyed={_queue(row) for row in rows if row.placement.keyed}
            )
            known = await self._store.reserve(connection, rows)
            asked = {_key(row) for row in rows if row.start.strategy is not Strategy.QUEUE}
            room = _Room(queues, await self._store.holders(connection, asked) if asked else {})
            taken: list[int] = []
            for place, row in enumerate(rows):
                if row.task_id in known:
                    continue
                try:
                    _take(room, row)
                    taken.append(place)
                except DomainError as error:
                    results[place] = error
            refused = [row for row, result in zip(rows, results, strict=True) if result is not None]
            if refused:
                await self._store.release(connection, refused)
            ended = await self._make_room(connection, room.victims) if room.victims else []
            stored = await self._store.store(connection, [rows[place] for place in taken]) if taken else []
            for place, outcome in zip(taken, stored, strict=True):
                if outcome is NOT_PLACED:
                    raise RuntimeError("admission: a row was not placed although its queue is locked")
                results[place] = outcome
        self._announce(ended)
        return results

    async def _make_room(
        self, connection: AsyncConnection, victims: Mapping[uuid.UUID, str]
    ) -> list[TaskChanges]:
        """Cancel these tasks, each on behalf of its subject; what became of those that had not ended."""
        ended = []
        for task in await self._store.lock(connection, victims):
            changes = TaskChanges(task)
            cancel(changes, victims[task.task_id], grace=self._grace)
            if changes.events:
                ended.append(changes)
        if ended:
            await self._store.write(connection, ended)
        return ended

    def _announce(self, ended: Sequence[TaskChanges]) -> None:
        if not ended:
            return
        metrics.count_finished(ended)
        self._announcer.committed(runnable={})
        for changes in ended:
            if changes.task.session_id is not None:
                self._announcer.directed(changes.task.session_id)


def _take(room: _Room, row: NewTask) -> None:
    queue, key = _queue(row), _key(row)
    bounds = room.queues.get(queue)
    if bounds is None:
        raise queue_not_found(row.placement.queue)
    if bounds.max_waiting is not None and bounds.waiting + room.stored[queue] >= bounds.max_waiting:
        raise queue_full(row.placement.queue, bounds.max_waiting)
    if row.start.strategy is not Strategy.QUEUE:
        _take_key(room, row, limit=bounds.max_running_per_key)
    room.stored[queue] += 1
    room.of_key[key] += 1


def _take_key(room: _Room, row: NewTask, *, limit: int) -> None:
    key = _key(row)
    holders = room.holders.get(key, [])
    if row.start.strategy is Strategy.REJECT:
        if len(holders) + room.of_key[key] >= limit:
            raise concurrency_key_busy(row.placement.queue, row.placement.concurrency_key, limit)
        return
    staying = [
        each for each in holders if each.state is not TaskState.CANCELING and each.task_id not in room.victims
    ]
    surplus = len(staying) + room.of_key[key] + 1 - limit
    for holder in staying[: max(0, surplus)]:
        room.victims[holder.task_id] = row.submitters[0].subject


def _queue(row: NewTask) -> QueueName:
    return row.tenant, row.placement.queue


def _key(row: NewTask) -> KeyName:
    return row.tenant, row.placement.queue, row.placement.concurrency_key
