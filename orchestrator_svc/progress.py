"""What attempts say of themselves, brought to those who watch their tasks: the last word, not every one."""

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from orchestrator_svc.records import Progress
from orchestrator_svc.rights import HeldAttempt
from svc_kit.errors import Unavailable
from svc_kit.wakeup import Subscription, Wakeups

log = structlog.get_logger(__name__)

# Topic of the wake-ups that say: an attempt has said something.
TOPIC = "progress"
# Words come to watchers no more often than this, and within a second from another replica at the latest.
_PAUSE_SECONDS = 0.1
_POLL_SECONDS = 1.0

Listener = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What an attempt says; the number rises with each word of it."""

    held: HeldAttempt
    number: int
    message: str
    done: float | None


class ProgressWords(Protocol):
    """What is asked of the store, which says what each does."""

    async def tell(self, words: Sequence[Word]) -> set[tuple[uuid.UUID, int]]: ...
    async def latest(self, task_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Progress]: ...


class ProgressFeed:
    """Takes words of workers, and reads those of the watched tasks, from whichever replica took them."""

    def __init__(self, *, store: ProgressWords, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups
        self._woken: Subscription = wakeups.subscribe(TOPIC)
        self._listeners: dict[uuid.UUID, dict[Listener, tuple[int, int]]] = {}

    async def tell(self, words: Sequence[Word]) -> list[bool]:
        """Show these; for each, whether its attempt lives."""
        live = await self._store.tell(words) if words else set()
        if live:
            self._wakeups.notify(TOPIC)
        return [(word.held.ref.task_id, word.held.ref.attempt) in live for word in words]

    @contextmanager
    def listening(self, task_id: uuid.UUID, listener: Listener) -> Iterator[None]:
        """Have a listener called with the last word of the task's live attempt, and with each later one."""
        self._listeners.setdefault(task_id, {})[listener] = (0, 0)
        self._woken.wake()
        try:
            yield
        finally:
            listeners = self._listeners[task_id]
            del listeners[listener]
            if not listeners:
                del self._listeners[task_id]

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            await self._woken.wait(_POLL_SECONDS)
            if not self._listeners:
                continue
            try:
                await self._read()
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("progress_failed")
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _read(self) -> None:
        latest = await self._store.latest(list(self._listeners))
        for task_id, progress in latest.items():
            place = (progress.attempt, progress.number)
            for listener, heard in list(self._listeners.get(task_id, {}).items()):
                if place > heard:
                    self._listeners[task_id][listener] = place
                    listener(progress)
