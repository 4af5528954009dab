"""Contents and entries that were removed: their rows, and the index of what says why."""

import uuid
from collections.abc import Collection, Sequence
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.errors import content_kept
from audit_svc.tables import removed_part
from svc_kit.database import Database

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
_NOTE_ENTRIES = sa.text(
    "INSERT INTO removed_entry (log_id, leaf_index, event_id, leaf_hash, explained_by)"
    " SELECT :log_id, found.leaf_index, gone.event_id, found.leaf_hash, :explained_by"
    " FROM unnest(CAST(:event_ids AS uuid[])) AS gone (event_id),"
    " LATERAL (SELECT leaf_index, leaf_hash FROM entry"
    " WHERE entry.log_id = :log_id AND entry.event_id = gone.event_id OFFSET 0) AS found"
)
_DELETE_ENTRIES = sa.text(
    "DELETE FROM entry USING unnest(CAST(:event_ids AS uuid[])) AS gone (event_id)"
    " WHERE entry.log_id = :log_id AND entry.event_id = gone.event_id"
)
_FORGET = sa.text(
    "WITH told AS (INSERT INTO forgotten_actor (log_id, pseudonym, explained_by)"
    " VALUES (:log_id, :pseudonym, :explained_by) ON CONFLICT DO NOTHING),"
    " counted AS (UPDATE log_head SET forgotten = forgotten + 1 WHERE log_id = :log_id)"
    " SELECT subject FROM actor WHERE log_id = :log_id AND pseudonym = :pseudonym"
)
_RENAME = sa.text("UPDATE erasure SET requester = :pseudonym WHERE log_id = :log_id AND requester = :subject")
_DELETE_ACTOR = sa.text("DELETE FROM actor WHERE log_id = :log_id AND pseudonym = :pseudonym")


class PlacedEntry(NamedTuple):
    """A stored entry: its event, its index."""

    event_id: uuid.UUID
    leaf_index: int


class PlacedPart(NamedTuple):
    """A stored content: its event, the index of its entry, its name."""

    event_id: uuid.UUID
    leaf_index: int
    part: str


class RemovedParts:
    """The index of what was removed: it says where to look, and is believed in nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def explained_by(self, log_id: uuid.UUID, event_ids: Collection[uuid.UUID]) -> Sequence[uuid.UUID]:
        """The events that say why contents of these are missing."""
        statement = (
            sa.select(removed_part.c.explained_by)
            .distinct()
            .where(
                removed_part.c.log_id == log_id,
                removed_part.c.event_id == sa.any_(sa.cast(list(event_ids), sa.ARRAY(sa.Uuid))),
            )
        )
        async with self._database.autocommit() as connection:
            return list((await connection.execute(statement)).scalars())


async def remove_parts(
    connection: AsyncConnection, log_id: uuid.UUID, parts: Sequence[PlacedPart], *, explained_by: uuid.UUID
) -> Sequence[str]:
    """In the transaction that appends the event `explained_by`: the table of each row that was deleted.

    Raises CONTENT_KEPT when a trigger says that one of them is held, or that its minimum is not over.
    """
    gone = {
        "log_id": log_id,
        "event_ids": [part.event_id for part in parts],
        "parts": [part.part for part in parts],
    }
    await connection.execute(_NOTE, {**gone, "explained_by": explained_by})
    try:
        return list((await connection.execute(_DELETE, gone)).scalars())
    except psycopg.errors.RestrictViolation as error:
        raise content_kept(error.diag.message_detail or "by the database") from error


async def remove_entries(
    connection: AsyncConnection, log_id: uuid.UUID, entries: Sequence[PlacedEntry], *, explained_by: uuid.UUID
) -> None:
    """In the transaction that appends the event `explained_by`; of each the place and the hash are kept.

    Raises CONTENT_KEPT when a trigger says that one of them is held, or that its minimum is not over.
    """
    gone = {"log_id": log_id, "event_ids": [entry.event_id for entry in entries]}
    try:
        await connection.execute(_NOTE_ENTRIES, {**gone, "explained_by": explained_by})
    except psycopg.errors.RestrictViolation as error:
        raise content_kept(error.diag.message_detail or "by the database") from error
    await connection.execute(_DELETE_ENTRIES, gone)


async def forget_actor(
    connection: AsyncConnection, log_id: uuid.UUID, pseudonym: str, *, explained_by: uuid.UUID
) -> int:
    """In the transaction that appends the event `explained_by`: rows that named who is behind a pseudonym.

    Raises CONTENT_KEPT when a trigger says that the name is held.
    """
    who = {"log_id": log_id, "pseudonym": pseudonym}
    subject = (await connection.execute(_FORGET, {**who, "explained_by": explained_by})).scalar_one_or_none()
    if subject is None:
        return 0
    renamed = await connection.execute(_RENAME, {**who, "subject": subject})
    try:
        await connection.execute(_DELETE_ACTOR, who)
    except psycopg.errors.RestrictViolation as error:
        raise content_kept(error.diag.message_detail or "by the database") from error
    return 1 + renamed.rowcount
