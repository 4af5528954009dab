"""Statements on the gateway processes that live; times are the database's."""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from gateway_svc.tables import gateway
from svc_kit.database import Database


class GatewayStore:
    """Processes as rows: which one has which slot, and when it last said so."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, incarnation: uuid.UUID, slot: str) -> None:
        """Enter a process; whoever had the slot before is not there any more."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(gateway).where(gateway.c.slot == slot))
            await connection.execute(
                sa.insert(gateway).values(
                    incarnation=incarnation, slot=slot, beat_time=sa.func.clock_timestamp()
                )
            )

    async def beat(self, incarnation: uuid.UUID, slot: str) -> None:
        """Say that a process lives, even if somebody took it for dead."""
        now = sa.func.clock_timestamp()
        statement = insert(gateway).values(incarnation=incarnation, slot=slot, beat_time=now)
        statement = statement.on_conflict_do_update(
            index_elements=[gateway.c.incarnation], set_={"beat_time": now}
        )
        async with self._database.transaction() as connection:
            await connection.execute(statement)

    async def retire(self, *, silent_seconds: float) -> Sequence[str]:
        """Take out the processes that were silent for longer; their slots."""
        oldest = sa.func.clock_timestamp() - sa.func.make_interval(0, 0, 0, 0, 0, 0, silent_seconds)
        statement = sa.delete(gateway).where(gateway.c.beat_time < oldest).returning(gateway.c.slot)
        async with self._database.transaction() as connection:
            return list((await connection.execute(statement)).scalars())

    async def leave(self, incarnation: uuid.UUID) -> None:
        """Take out one process."""
        async with self._database.transaction() as connection:
            await connection.execute(sa.delete(gateway).where(gateway.c.incarnation == incarnation))
