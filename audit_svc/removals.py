"""Removing contents: in one transaction with the entry that says which ones went, and why."""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.event import Appended, NewEvent, Part, nanoseconds
from audit_svc.log import AuditLog
from audit_svc.sequence import NewEntry
from interlock.verify.gaps import PRODUCER, REMOVED, Gap, write_gaps
from svc_kit.clock import Clock
from svc_kit.ids import uuid7

MAX_PARTS = 20_000
"""So many at a time: their list is a content of the entry that tells of them."""

_NOTE = sa.text(
    "INSERT INTO removed_part (log_id, event_id, part, explained_by)"
    " SELECT :log_id, gone.event_id, gone.part, :explained_by"
    " FROM unnest(CAST(:event_ids AS uuid[]), CAST(:parts AS text[])) AS gone (event_id, part)"
    " ON CONFLICT DO NOTHING"
)
_DELETE = sa.text(
    "DELETE FROM payload"
    " USING unnest(CAST(:event_ids AS uuid[]), CAST(:parts AS text[])) AS gone (event_id, part)"
    " WHERE payload.log_id = :log_id AND payload.event_id = gone.event_id AND payload.part = gone.part"
    " RETURNING payload.tableoid::regclass::text"
)


class PlacedPart(NamedTuple):
    """A stored content: its event, the index of its entry, its name."""

    event_id: uuid.UUID
    leaf_index: int
    part: str


class Removed(NamedTuple):
    """What a removal did: the index of the entry that tells of it, rows deleted, and in which tables."""

    told_at: int
    rows: int
    files: tuple[str, ...]


Alongside: TypeAlias = Callable[[AsyncConnection, Removed], Awaitable[None]]


class Removals:
    """The one way by which contents leave the log."""

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

        `reason` is free text, and a content of that entry itself; with `task_id` the entry is one of the
        task's. `alongside` writes in the same transaction what the caller has to note.
        """
        if not 0 < len(parts) <= MAX_PARTS:
            raise ValueError(f"{len(parts)} contents at once, where 1 to {MAX_PARTS} are allowed")

        async def delete(connection: AsyncConnection, told: NewEntry) -> None:
            gone = {
                "log_id": told.log_id,
                "event_ids": [part.event_id for part in parts],
                "parts": [part.part for part in parts],
            }
            await connection.execute(_NOTE, {**gone, "explained_by": told.event.event_id})
            tables = list((await connection.execute(_DELETE, gone)).scalars())
            if alongside is not None:
                removed = Removed(told.placed.index, len(tables), tuple(sorted(set(tables))))
                await alongside(connection, removed)

        gaps = write_gaps(Gap(part.leaf_index, part.part) for part in parts)
        contents = [Part(name=REMOVED, content_type="application/json", body=gaps)]
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
