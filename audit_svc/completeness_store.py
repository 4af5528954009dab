"""Producers' numbers, as the log holds them, over all tenants."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from audit_svc.completeness import Progress, Received
from audit_svc.tables import entry, producer_progress
from svc_kit.database import Database

# From one producer to the next along the index, whatever stands between.
_PRODUCERS = sa.text(
    "WITH RECURSIVE known AS ("
    "(SELECT producer FROM entry WHERE producer_sequence > 0 ORDER BY producer LIMIT 1)"
    " UNION ALL SELECT next.producer FROM known, LATERAL (SELECT producer FROM entry"
    " WHERE producer_sequence > 0 AND entry.producer > known.producer ORDER BY producer LIMIT 1) AS next"
    ") SELECT producer FROM known"
)


class CompletenessStore:
    """For the service itself and for those who look after all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def producers(self) -> Sequence[str]:
        """All that number their events, by name."""
        async with self._database.autocommit() as connection:
            return list((await connection.execute(_PRODUCERS)).scalars())

    async def progress(self) -> Sequence[Progress]:
        """How far each was found complete before."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(sa.select(producer_progress))
        return [Progress(producer=row.producer, complete_to=row.complete_to) for row in rows]

    async def received(self, producer: str, *, after: int, limit: int) -> Sequence[Received]:
        """Numbers above one, in order, each once."""
        statement = (
            sa.select(entry.c.producer_sequence, sa.func.min(entry.c.recorded_time))
            .where(
                entry.c.producer == producer,
                entry.c.producer_sequence > after,
                entry.c.producer_sequence > sa.literal_column("0"),
            )
            .group_by(entry.c.producer_sequence)
            .order_by(entry.c.producer_sequence)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            return [Received(*row) for row in await connection.execute(statement)]

    async def newest(self, producer: str) -> Received | None:
        """The highest number."""
        statement = (
            sa.select(entry.c.producer_sequence, entry.c.recorded_time)
            .where(entry.c.producer == producer, entry.c.producer_sequence > sa.literal_column("0"))
            .order_by(entry.c.producer_sequence.desc())
            .limit(1)
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return Received(*row) if row is not None else None

    async def advance(self, producer: str, complete_to: int) -> None:
        """Remember how far it is complete; never less than before."""
        new = insert(producer_progress).values(producer=producer, complete_to=complete_to)
        statement = new.on_conflict_do_update(
            index_elements=["producer"],
            set_={"complete_to": new.excluded.complete_to},
            where=producer_progress.c.complete_to < new.excluded.complete_to,
        )
        async with self._database.autocommit() as connection:
            await connection.execute(statement)
