"""The feed of WatchRegistry: everything from the beginning, then each change as it commits."""

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from registry_svc.catalog import CHANGED
from registry_svc.records import Resource, Version
from svc_kit.wakeup import Wakeups

_SLICE = 500
# Consumers take silence for a lost feed and refuse work on it, so a bookmark goes out well within their
# patience.
_BEAT_SECONDS = 0.5


class FeedStore(Protocol):
    """What the feed asks of its store; `Store` says what each does."""

    async def changes(self, *, after: int, limit: int) -> tuple[list[Resource | Version], int]: ...


class Feed:
    """Reads the registry's log for consumers; each reads for itself, for there are only a handful."""

    def __init__(self, store: FeedStore, wakeups: Wakeups) -> None:
        self._store = store
        self._wakeups = wakeups

    async def follow(self, tenants: Collection[str] | None) -> AsyncIterator[Resource | Version | int]:
        """Changes of `tenants` (None = all) in order.

        A number says that everything up to that position has been sent.
        """
        cursor = 0
        with self._wakeups.subscribe(CHANGED) as woken:
            while True:
                changes, reached = await self._store.changes(after=cursor, limit=_SLICE)
                for change in changes:
                    if tenants is None or change.tenant in tenants:
                        yield change
                cursor = reached
                if len(changes) < _SLICE:
                    yield cursor
                    await woken.wait(_BEAT_SECONDS)
