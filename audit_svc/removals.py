"""Removing contents, and entries: in one transaction with the entry that says which ones went, and why."""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.event import Appended, NewEvent, Part, nanoseconds
from audit_svc.log import AuditLog
from audit_svc.removal_store import PlacedEntry, PlacedPart, forget_actor, remove_entries, remove_parts
from audit_svc.sequence import NewEntry
from interlock.verify.gaps import ENTRY, PRODUCER, REMOVED, Gap, write_gaps
from svc_kit.clock import Clock
from svc_kit.ids import uuid7

MAX_PARTS = 20_000
"""So many at a time: their list is a content of the entry that tells of them."""


class Removed(NamedTuple):
    """What a removal did: the index of the entry that tells of it, rows deleted, and in which tables."""

    told_at: int
    rows: int
    files: tuple[str, ...]


Alongside: TypeAlias = Callable[[AsyncConnection, Removed], Awaitable[None]]


class Removals:
    """The one way by which anything leaves the log."""

    def __init__(self, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def remove(
        self,
        tenant: str,
        parts: Sequence[PlacedPart],
        *,
        kind: Literal["ERASURE", "RETENTION"],
        actor: str,
        attributes: Mapping[str, str],
        reason: str = "",
        task_id: uuid.UUID | None = None,
        alongside: Alongside | None = None,
    ) -> Appended:
        """Remove at most MAX_PARTS contents with their salts; answers where the entry stands that says so.

        Raises FailedPrecondition CONTENT_KEPT when one of them is held, and then all stay (see `Holds.held`).
        `reason` is free text, and a content of that entry itself; with `task_id` the entry is one of the
        task's. `alongside` writes in the same transaction what the caller has to note.
        """
        if not 0 < len(parts) <= MAX_PARTS:
            raise ValueError(f"{len(parts)} contents at once, where 1 to {MAX_PARTS} are allowed")

        async def delete(connection: AsyncConnection, told: NewEntry) -> None:
            tables = await remove_parts(connection, told.log_id, parts, explained_by=told.event.event_id)
            if alongside is not None:
                removed = Removed(told.placed.index, len(tables), tuple(sorted(set(tables))))
                await alongside(connection, removed)

        gaps = write_gaps(Gap(part.leaf_index, part.part) for part in parts)
        contents = [_list_of(gaps)]
        if reason:
            contents.append(Part(name="reason", content_type="text/plain", body=reason.encode()))
        told = NewEvent(
            event_id=uuid7(),
            tenant=tenant,
            producer=PRODUCER,
            type=kind,
            event_time=nanoseconds(self._clock.now()),
            actor=actor,
            task_id=task_id,
            status="REMOVED",
            attributes={**attributes, "removed_parts": str(len(parts))},
            parts=tuple(contents),
        )
        return await self._log.append_with(told, delete)

    async def remove_entries(
        self, tenant: str, entries: Sequence[PlacedEntry], *, attributes: Mapping[str, str]
    ) -> Appended:
        """Remove at most MAX_PARTS whole entries whose time is over; their hashes stay, and so all proofs.

        Raises FailedPrecondition CONTENT_KEPT when one of them is held, and then all stay.
        """
        if not 0 < len(entries) <= MAX_PARTS:
            raise ValueError(f"{len(entries)} entries at once, where 1 to {MAX_PARTS} are allowed")

        async def delete(connection: AsyncConnection, told: NewEntry) -> None:
            await remove_entries(connection, told.log_id, entries, explained_by=told.event.event_id)

        told = NewEvent(
            event_id=uuid7(),
            tenant=tenant,
            producer=PRODUCER,
            type="RETENTION",
            event_time=nanoseconds(self._clock.now()),
            status="ENTRIES_REMOVED",
            attributes={**attributes, "removed_entries": str(len(entries))},
            parts=(_list_of(write_gaps(Gap(entry.leaf_index, ENTRY) for entry in entries)),),
        )
        return await self._log.append_with(told, delete)

    async def forget(
        self,
        tenant: str,
        pseudonym: str,
        *,
        actor: str,
        attributes: Mapping[str, str],
        reason: str,
        alongside: Alongside,
    ) -> Appended:
        """Remove who stands behind a pseudonym: nothing in the log tells of it from then on.

        Raises FailedPrecondition CONTENT_KEPT when a hold selects that person.
        """

        async def delete(connection: AsyncConnection, told: NewEntry) -> None:
            rows = await forget_actor(connection, told.log_id, pseudonym, explained_by=told.event.event_id)
            await alongside(connection, Removed(told.placed.index, rows, ("actor",)))

        told = NewEvent(
            event_id=uuid7(),
            tenant=tenant,
            producer=PRODUCER,
            type="ERASURE",
            event_time=nanoseconds(self._clock.now()),
            actor=actor,
            status="ACTOR_FORGOTTEN",
            attributes={**attributes, "forgotten": pseudonym},
            parts=(Part(name="reason", content_type="text/plain", body=reason.encode()),),
        )
        appended = await self._log.append_with(told, delete)
        # At once: whoever acts again must not be written down under the old pseudonym.
        self._log.forget_names(tenant)
        return appended


def _list_of(gaps: bytes) -> Part:
    return Part(name=REMOVED, content_type="application/json", body=gaps)
