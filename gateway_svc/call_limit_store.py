"""Statements on what operators limit: one method per question."""

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from gateway_svc.call_limits import CallLimit
from gateway_svc.tables import call_limit
from gateway_svc.told_store import Told, write_told
from svc_kit.database import Database


class CallLimitStore:
    """Limits as rows; there is none for what is not limited."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, limit: CallLimit, told: Told) -> None:
        """Set it in the place of the one before, or remove that, and tell of it."""
        values = dataclasses.asdict(limit)
        stored = insert(call_limit).values(**values)
        changed = {name: stored.excluded[name] for name in values.keys() - {"tenant", "tool"}}
        keys = [call_limit.c.tenant, call_limit.c.tool]
        is_it = sa.and_(call_limit.c.tenant == limit.tenant, call_limit.c.tool == limit.tool)
        async with self._database.transaction() as connection:
            await connection.execute(
                sa.delete(call_limit).where(is_it)
                if limit.empty
                else stored.on_conflict_do_update(index_elements=keys, set_=changed)
            )
            await write_told(connection, [told])

    async def page(self, tenant: str, *, after: str | None, limit: int) -> Sequence[CallLimit]:
        """Limits of a tenant by tool, after one; None = from the first."""
        query = (
            sa.select(call_limit)
            .where(call_limit.c.tenant == tenant)
            .order_by(call_limit.c.tool)
            .limit(limit)
        )
        if after is not None:
            query = query.where(call_limit.c.tool > after)
        async with self._database.autocommit() as connection:
            return [CallLimit(**row) for row in (await connection.execute(query)).mappings()]
