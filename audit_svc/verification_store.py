"""What is read of a log to verify it: very many rows, each as it is stored."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from audit_svc.event import RemovedEntry
from audit_svc.merkle import TileId
from audit_svc.sequence import LogName
from audit_svc.store import Store
from audit_svc.tables import tile
from audit_svc.verification import Row
from svc_kit.database import Database

_AT_ONCE_BYTES = 2048
"""A larger content comes by itself: it lies apart from its row, and 8,000 of them would fill the memory."""


def _time(column: str) -> str:
    """As leaves have it, to the microsecond; what lies outside their years would read like one within."""
    return (
        f"CASE WHEN {column} BETWEEN '0001-01-01 00:00Z' AND '9999-12-31 23:59:59.999999Z'"
        f" THEN to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
        f" ELSE {column}::text END"
    )


# Text comes as text: the database writes ids and times in C; objects would have to be made here, and written.
_ROWS = (
    "SELECT leaf_index, leaf, leaf_hash, event_id::text, type, producer, producer_sequence, actor, agent,"  # noqa: S608 -- words of our own
    " agent_version, coalesce(task_id::text, ''), tool, status, trace_id, span_id,"
    f" {_time('event_time')}, {_time('recorded_time')}"
    " FROM entry WHERE log_id = :log_id AND leaf_index >= :begin AND leaf_index < :end"
)
_IN_RANGE = sa.text(f"{_ROWS} ORDER BY leaf_index")
_OF_TASK = sa.text(f"{_ROWS} AND task_id = :task_id ORDER BY leaf_index LIMIT :limit")
# OFFSET 0 has the contents looked up by their key whatever the planner thinks of it: of a log that is not
# large it would rather read all.
_CONTENTS = sa.text(
    "SELECT event_id::text, part, content_type, salt, octet_length(body),"
    " CASE WHEN octet_length(body) <= :at_once THEN body END"
    " FROM unnest(CAST(:event_ids AS uuid[])) AS entry (event_id) CROSS JOIN LATERAL"
    " (SELECT part, content_type, salt, body FROM payload"
    " WHERE payload.log_id = :log_id AND payload.event_id = entry.event_id OFFSET 0) AS content"
)
_LARGE = sa.text(
    "SELECT event_id::text, part, content_type, salt, octet_length(body), body FROM payload"
    " WHERE log_id = :log_id AND event_id = ANY(CAST(:event_ids AS uuid[])) AND octet_length(body) > :at_once"
)


class StoredContent(NamedTuple):
    """A content as its row has it, of the entry with an event id in text; `body` None: too large for now."""

    event_id: str
    part: str
    content_type: str
    salt: bytes
    size: int
    body: bytes | None


class VerificationStore:
    """Reads logs row by row."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    async def log_of(self, tenant: str) -> LogName | None:
        """A tenant's log, if it has one."""
        return await self._store.log_of(tenant)

    async def rows(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[Row]:
        """Whole rows in order, from index `begin` below `end`."""
        values = {"log_id": log_id, "begin": begin, "end": end}
        return _rows(await self._read(_IN_RANGE, values))

    async def removed_entries(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[RemovedEntry]:
        """What is left of removed entries in order, from index `begin` below `end`."""
        return await self._store.removed_entries(log_id, begin, end)

    async def task_rows(
        self, log_id: uuid.UUID, task_id: uuid.UUID, *, begin: int, end: int, limit: int
    ) -> Sequence[Row]:
        """Whole rows of a task in order, from index `begin` below `end`."""
        values = {"log_id": log_id, "task_id": task_id, "begin": begin, "end": end, "limit": limit}
        return _rows(await self._read(_OF_TASK, values))

    async def contents(self, log_id: uuid.UUID, event_ids: Iterable[str]) -> Sequence[StoredContent]:
        """All that is stored of these entries' contents, large ones without their bodies."""
        return await self._contents(_CONTENTS, log_id, event_ids)

    async def large_contents(self, log_id: uuid.UUID, event_ids: Iterable[str]) -> Sequence[StoredContent]:
        """Those of these entries that `contents` left without a body."""
        return await self._contents(_LARGE, log_id, event_ids)

    async def full_tiles(self, log_id: uuid.UUID, tiles: Sequence[TileId]) -> Mapping[TileId, bytes]:
        """Those of these tiles that are stored, as they are stored."""
        statement = sa.select(tile.c.tier, tile.c.number, tile.c.hashes).where(
            tile.c.log_id == log_id, sa.tuple_(tile.c.tier, tile.c.number).in_(tiles)
        )
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statement)
            return {TileId(row.tier, row.number): row.hashes for row in rows}

    async def _contents(
        self, statement: sa.TextClause, log_id: uuid.UUID, event_ids: Iterable[str]
    ) -> Sequence[StoredContent]:
        # As one text: the ids are many, and text already.
        values = {"log_id": log_id, "event_ids": f"{{{','.join(event_ids)}}}", "at_once": _AT_ONCE_BYTES}
        return [StoredContent._make(row) for row in await self._read(statement, values)]

    async def _read(self, statement: sa.TextClause, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        async with self._database.autocommit() as connection:
            return await connection.tuples(statement, values)


def _rows(found: Sequence[tuple[Any, ...]]) -> Sequence[Row]:
    return [Row(row[0], row[1], row[2], row[3:]) for row in found]
