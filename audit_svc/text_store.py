"""The index of words: how far it is, and the functions of the database that fill and check it."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from svc_kit.database import Database

_BEHIND = sa.text(
    "SELECT log_head.log_id, (SELECT recorded_time FROM entry WHERE entry.log_id = log_head.log_id"
    " AND entry.leaf_index = coalesce(text_progress.size, 0)) AS since"
    " FROM log_head LEFT JOIN text_progress USING (log_id)"
    " WHERE log_head.size > coalesce(text_progress.size, 0)"
)
_INDEX = sa.text("SELECT index_texts(:log_id, :at_most)")
_SIZE = sa.text("SELECT size FROM text_progress WHERE log_id = :log_id")
_WORDS = sa.text("SELECT numnode(websearch_to_tsquery('pg_catalog.simple', :text)) > 0")
# OFFSET 0 has contents and words looked up by their keys whatever the planner thinks of it: of a log that is
# not large it would rather read all, and again for each piece.
_FLAWS = sa.text(
    """
    SELECT leaf_index, flaw.part, flaw.flaw
    FROM entry CROSS JOIN LATERAL (
        SELECT content.part, CASE WHEN words IS NULL THEN 'MISSING' ELSE 'OTHER' END AS flaw
        FROM (
            SELECT part, content_type, body FROM payload
            WHERE payload.log_id = :log_id AND payload.event_id = entry.event_id
                AND part NOT IN ('removed', 'search') OFFSET 0
        ) AS content LEFT JOIN LATERAL (
            SELECT words FROM payload_text
            WHERE payload_text.log_id = :log_id AND payload_text.event_id = entry.event_id
                AND payload_text.part = content.part OFFSET 0
        ) AS found ON true
        WHERE leaf_index < (SELECT size FROM text_progress WHERE text_progress.log_id = :log_id)
            AND words IS DISTINCT FROM text_words(:log_id, content_type, body)
        UNION ALL
        SELECT part, 'LEFT'
        FROM (
            SELECT part FROM payload_text
            WHERE payload_text.log_id = :log_id AND payload_text.event_id = entry.event_id OFFSET 0
        ) AS found
        WHERE NOT EXISTS (
            SELECT FROM payload
            WHERE payload.log_id = :log_id AND payload.event_id = entry.event_id
                AND payload.part = found.part OFFSET 0
        )
    ) AS flaw
    WHERE entry.log_id = :log_id AND leaf_index >= :begin AND leaf_index < :end
    ORDER BY 1, 2
    """
)


class Behind(NamedTuple):
    """A log that has entries which are not indexed yet, and when the first of them was recorded."""

    log_id: uuid.UUID
    since: datetime | None


class TextFlaw(NamedTuple):
    """Words that are not those of a stored content: MISSING, OTHER, or LEFT when it is gone."""

    leaf_index: int
    part: str
    flaw: str


class TextStore:
    """Asks the database, which alone may change the index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def behind(self) -> Sequence[Behind]:
        """All logs that the index is behind of."""
        async with self._database.autocommit() as connection:
            return [Behind(*row) for row in await connection.execute(_BEHIND)]

    async def index(self, log_id: uuid.UUID, *, at_most: int) -> int:
        """Index so many entries of a log; how many it was, 0 also while another replica is at it."""
        async with self._database.transaction() as connection:
            values = {"log_id": log_id, "at_most": at_most}
            indexed: int = (await connection.execute(_INDEX, values)).scalar_one()
        return indexed

    async def size(self, log_id: uuid.UUID) -> int:
        """The contents of so many first entries are indexed."""
        async with self._database.autocommit() as connection:
            return (await connection.execute(_SIZE, {"log_id": log_id})).scalar_one_or_none() or 0

    async def has_words(self, text: str) -> bool:
        """Whether there is anything in a question to search for."""
        async with self._database.autocommit() as connection:
            found: bool = (await connection.execute(_WORDS, {"text": text})).scalar_one()
        return found

    async def flaws(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[TextFlaw]:
        """What is wrong with the words of entries from index `begin` below `end`, if they are indexed yet."""
        async with self._database.autocommit() as connection:
            values = {"log_id": log_id, "begin": begin, "end": end}
            return [TextFlaw(*row) for row in await connection.execute(_FLAWS, values)]
