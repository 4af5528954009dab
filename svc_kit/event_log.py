"""The head of a service's event log: gapless positions, handed out in commit order.

`log_head` is one row. Every transaction that writes events or outbox rows updates it as its *last lock*, and
the row stays locked until that transaction has committed; so a later position is never visible before an
earlier one, and a roll-back leaves no gap. A serial column gives neither.
"""

import uuid
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What one transaction was given: events first_position … position, outbox rows first_seq … seq.

    A range is empty (first = last + 1) where nothing was asked for.
    """

    log_id: uuid.UUID
    first_position: int
    position: int
    first_seq: int
    seq: int


class Migration(Protocol):
    """What a migration has in hand, `alembic.op`; Alembic itself would cost every service 12 MiB."""

    def execute(self, sqltext: str, /) -> None:
        """Run one statement."""


def log_head_table(metadata: sa.MetaData) -> sa.Table:
    """The table definition, for statements; `create_log_head` makes it."""
    return sa.Table(
        "log_head",
        metadata,
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("log_id", sa.Uuid, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("outbox_seq", sa.BigInteger, nullable=False),
    )


def create_log_head(op: Migration) -> None:
    """For a migration: the table and its one row, with a fresh log id and everything at 0."""
    # Room on the page keeps the one row, rewritten by every commit, from growing the table.
    op.execute(
        """
        CREATE TABLE log_head (
            id smallint PRIMARY KEY CHECK (id = 1),
            log_id uuid NOT NULL,
            position bigint NOT NULL CHECK (position >= 0),
            outbox_seq bigint NOT NULL CHECK (outbox_seq >= 0)
        ) WITH (fillfactor = 10)
        """
    )
    op.execute("INSERT INTO log_head VALUES (1, gen_random_uuid(), 0, 0)")


_ADVANCE = sa.text(
    "UPDATE log_head SET position = position + :events, outbox_seq = outbox_seq + :outbox"
    " WHERE id = 1 RETURNING log_id, position, outbox_seq"
)
_READ = sa.text("SELECT log_id, position, outbox_seq FROM log_head WHERE id = 1")


async def advance(connection: AsyncConnection, *, events: int, outbox: int = 0) -> Head:
    """Take the next `events` positions and `outbox` sequence numbers for this transaction.

    Call it once, after every other lock the transaction takes (lock order: … → log_head), then insert the
    rows with the numbers it gave.
    """
    if events < 0 or outbox < 0:
        raise ValueError("event log: counts cannot be negative")
    row = (await connection.execute(_ADVANCE, {"events": events, "outbox": outbox})).one()
    return Head(
        log_id=row.log_id,
        first_position=row.position - events + 1,
        position=row.position,
        first_seq=row.outbox_seq - outbox + 1,
        seq=row.outbox_seq,
    )


async def read_head(connection: AsyncConnection) -> Head:
    """The head as committed, without locking it; both ranges are empty."""
    row = (await connection.execute(_READ)).one()
    return Head(
        log_id=row.log_id,
        first_position=row.position + 1,
        position=row.position,
        first_seq=row.outbox_seq + 1,
        seq=row.outbox_seq,
    )
