"""Single contents of entries: the content, or the reason why it is there no more."""

import uuid
from collections.abc import Collection, Sequence
from typing import Protocol

from audit_svc.errors import entry_not_found, payload_erased
from audit_svc.event import StoredEntry, StoredPart
from audit_svc.sequence import LogName
from interlock.verify.entry import parse_leaf


class EntryStore(Protocol):
    """What is asked of the log's store, which says what each does."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def entry(
        self, log_id: uuid.UUID, event_id: uuid.UUID, *, with_bodies: bool
    ) -> StoredEntry | None: ...


class RemovedParts(Protocol):
    """What is asked of the index of what was removed."""

    async def explained_by(
        self, log_id: uuid.UUID, event_ids: Collection[uuid.UUID]
    ) -> Sequence[uuid.UUID]: ...


class Contents:
    """Finds one content at a time."""

    def __init__(self, store: EntryStore, removed: RemovedParts) -> None:
        self._store = store
        self._removed = removed

    async def find(self, tenant: str, event_id: uuid.UUID, part: str) -> tuple[StoredEntry, StoredPart]:
        """The entry and the content; raises ENTRY_NOT_FOUND, or PAYLOAD_ERASED for one that was removed."""
        name = await self._store.log_of(tenant)
        found = await self._store.entry(name.log_id, event_id, with_bodies=True) if name else None
        if name is None or found is None:
            raise entry_not_found(f"with the event id {event_id}")
        for each in found.parts:
            if each.name == part:
                return found, each
        was_there = part in {commitment.name for commitment in parse_leaf(found.leaf).parts}
        for told in await self._removed.explained_by(name.log_id, [event_id]):
            says = await self._store.entry(name.log_id, told, with_bodies=False)
            if says is not None and was_there:
                raise payload_erased(event_id, part, explained_by=says.index)
        raise entry_not_found(f"with the event id {event_id} and a content {part}")
