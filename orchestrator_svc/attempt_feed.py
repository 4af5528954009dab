"""The feed of WatchAttempts: every live attempt, then each change as it commits."""

import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from orchestrator_svc.lifecycle import TaskState
from svc_kit.wakeup import Wakeups

# A gateway that hears nothing refuses all calls, so it hears something well within its patience.
_BEAT_SECONDS = 1.0
_SLICE = 1000


class Standing(StrEnum):
    """How an attempt stands; the names are those of the contract."""

    LIVE = "LIVE"
    CANCELING = "CANCELING"
    OVER = "OVER"
    TASK_OVER = "TASK_OVER"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptChange:
    """What has become of an attempt."""

    tenant: str
    task_id: uuid.UUID
    attempt: int
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some changes; `up_to_date` when nothing committed before it was read is missing."""

    changes: Sequence[AttemptChange]
    up_to_date: bool


class AttemptFeedStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def position(self) -> int: ...
    async def live(self, *, after: uuid.UUID, limit: int) -> list[AttemptChange]: ...
    async def standings(self, task_ids: Sequence[uuid.UUID]) -> list[AttemptChange]: ...
    async def changes(self, *, after: int, limit: int) -> tuple[list[AttemptChange], int, bool]: ...


class AttemptFeed:
    """Reads the log for gateways; each reads for itself, for there are only a handful."""

    def __init__(self, store: AttemptFeedStore, wakeups: Wakeups, *, topic: str) -> None:
        self._store = store
        self._wakeups = wakeups
        self._topic = topic

    async def follow(self, asked: Sequence[uuid.UUID]) -> AsyncGenerator[Slice]:
        """Slices for ever; what the beginning tells may come again as changes.

        It begins with every live attempt, and with how those of the tasks that are asked about stand.
        """
        with self._wakeups.subscribe(self._topic) as woken:
            cursor = await self._store.position()
            last = uuid.UUID(int=0)
            while found := await self._store.live(after=last, limit=_SLICE):
                yield Slice(changes=found, up_to_date=False)
                last = found[-1].task_id
            for at in range(0, len(asked), _SLICE):
                found = await self._store.standings(asked[at : at + _SLICE])
                yield Slice(changes=found, up_to_date=False)
            while True:
                changes, cursor, more = await self._store.changes(after=cursor, limit=_SLICE)
                yield Slice(changes=changes, up_to_date=not more)
                if not more:
                    await woken.wait(_BEAT_SECONDS)


def standing(state: TaskState) -> Standing:
    """How the last attempt of a task in that state stands."""
    if state is TaskState.CANCELING:
        return Standing.CANCELING
    if state.live:
        return Standing.LIVE
    return Standing.TASK_OVER if state.terminal else Standing.OVER
