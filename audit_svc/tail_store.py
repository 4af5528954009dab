"""What is read of logs to follow them."""

import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from audit_svc.event import StoredEntry
from audit_svc.sequence import LogName
from audit_svc.store import Store, holds
from audit_svc.tables import entry, log, log_head
from svc_kit.database import Database
from svc_kit.filters import Condition

_SIZES = sa.select(log.c.tenant, log_head.c.size).join(log_head, log_head.c.log_id == log.c.log_id)


class TailStore:
    """Reads the heads of all logs at once, and one log's entries in their order."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store

    async def log_of(self, tenant: str) -> LogName | None:
        """A tenant's log, if it has one."""
        return await self._store.log_of(tenant)

    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None:
        """What somebody is called in a log."""
        return await self._store.pseudonym(log_id, subject)

    async def sizes(self) -> Mapping[str, int]:
        """How many entries each tenant's log has."""
        async with self._database.autocommit() as connection:
            return {row.tenant: row.size for row in await connection.execute(_SIZES)}

    async def entries_in_order(
        self, log_id: uuid.UUID, conditions: Sequence[Condition], begin: int, end: int
    ) -> Sequence[StoredEntry]:
        """Those from index `begin` below `end` that fulfil every condition, without contents."""
        statement = (
            sa.select(entry.c.event_id)
            .where(entry.c.log_id == log_id, entry.c.leaf_index >= begin, entry.c.leaf_index < end)
            .where(*map(holds, conditions))
        )
        async with self._database.autocommit() as connection:
            event_ids = list((await connection.execute(statement)).scalars())
        found = await self._store.entries(log_id, event_ids, with_bodies=False) if event_ids else ()
        return sorted(found, key=lambda each: each.index)
