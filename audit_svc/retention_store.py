"""The statements of retention: rules, and the contents and entries that are old enough to be looked at."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.retention import KEEP_FOR_EVER, RetentionClass, Rule, Rules
from audit_svc.sequence import LogName
from audit_svc.sweep import OldEntry, OldPart, PartKey
from svc_kit.database import Database

_RULES = sa.text(
    "SELECT DISTINCT ON (class)"
    " class, payload_min_days, payload_max_days, entry_max_days, locked, update_time"
    " FROM retention_rule WHERE log_id = :log_id ORDER BY class, leaf_index DESC"
)
_ADD_RULES = sa.text(
    "INSERT INTO retention_rule"
    " (log_id, class, leaf_index, payload_min_days, payload_max_days, entry_max_days, locked, update_time)"
    " SELECT :log_id, class, :leaf_index, min_days, max_days, entry_days, locked, :update_time"
    " FROM unnest(CAST(:classes AS text[]), CAST(:min_days AS integer[]), CAST(:max_days AS integer[]),"
    " CAST(:entry_days AS integer[]), CAST(:locked AS boolean[]))"
    " AS rule (class, min_days, max_days, entry_days, locked)"
)
_LOGS_WITH_RULES = sa.text(
    "SELECT log_id, tenant, origin FROM log"
    " WHERE EXISTS (SELECT FROM retention_rule WHERE retention_rule.log_id = log.log_id) ORDER BY tenant"
)
# From the contents, not from the entries: those that are gone cost nothing. The bound is one of ids, by whose
# time months are kept apart, so that later months are not even opened.
# A page of keys first, and to each its entry: whatever the planner believes of new tables, it has no choice.
_OLD_PARTS = sa.text(
    "WITH page AS MATERIALIZED (SELECT event_id, part FROM payload"
    " WHERE log_id = :log_id AND (event_id, part) > (:after_id, :after_part) AND event_id < :until_id"
    " ORDER BY event_id, part LIMIT :limit)"
    " SELECT page.event_id, page.part, found.leaf_index, found.type, found.recorded_time"
    " FROM page, LATERAL (SELECT leaf_index, type, recorded_time FROM entry"
    " WHERE entry.log_id = :log_id AND entry.event_id = page.event_id OFFSET 0) AS found"
    " ORDER BY page.event_id, page.part"
)
# Those of the last tile stay: proofs take its hashes from its entries. So do those that have contents, and
# those whose number is not yet below what is known to be complete: it would look like one that never came.
_OLD_ENTRIES = sa.text(
    "SELECT entry.event_id, entry.leaf_index, entry.type, entry.recorded_time FROM entry"
    " LEFT JOIN producer_progress AS known ON known.producer = entry.producer"
    " WHERE entry.log_id = :log_id AND entry.type = :type AND entry.recorded_time <= :until"
    " AND (entry.recorded_time, entry.leaf_index) > (:after_time, :after_index)"
    " AND entry.leaf_index < (SELECT size - size % 256 FROM log_head WHERE log_head.log_id = :log_id)"
    " AND entry.producer_sequence <= coalesce(known.complete_to, 0)"
    " AND NOT EXISTS (SELECT FROM payload"
    " WHERE payload.log_id = :log_id AND payload.event_id = entry.event_id)"
    " ORDER BY entry.recorded_time, entry.leaf_index LIMIT :limit"
)
_KEPT = sa.text("SELECT event_id, keeper FROM kept_of(:log_id, CAST(:event_ids AS uuid[]))")


class RetentionStore:
    """Rules are added, never changed; the newest of a class holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rules(self, log_id: uuid.UUID) -> Rules:
        """What holds for every class."""
        async with self._database.autocommit() as connection:
            return await self.rules_in(connection, log_id)

    async def rules_in(self, connection: AsyncConnection, log_id: uuid.UUID) -> Rules:
        """The same within a transaction."""
        rows = await connection.execute(_RULES, {"log_id": log_id})
        found = {
            RetentionClass(row[0]): Rule(
                payload_min_days=row.payload_min_days,
                payload_max_days=row.payload_max_days,
                entry_max_days=row.entry_max_days,
                locked=row.locked,
                update_time=row.update_time,
            )
            for row in rows
        }
        return {**KEEP_FOR_EVER, **found}

    async def add_rules(
        self,
        connection: AsyncConnection,
        log_id: uuid.UUID,
        rules: Rules,
        *,
        leaf_index: int,
        update_time: datetime,
    ) -> None:
        """Store rules in the transaction of the entry at `leaf_index`, which tells of them."""
        values = {
            "log_id": log_id,
            "leaf_index": leaf_index,
            "update_time": update_time,
            "classes": [str(each) for each in rules],
            "min_days": [rule.payload_min_days for rule in rules.values()],
            "max_days": [rule.payload_max_days for rule in rules.values()],
            "entry_days": [rule.entry_max_days for rule in rules.values()],
            "locked": [rule.locked for rule in rules.values()],
        }
        await connection.execute(_ADD_RULES, values)

    async def logs_with_rules(self) -> Sequence[LogName]:
        """The logs of which something may be overdue."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_LOGS_WITH_RULES)
        return [LogName(log_id=row.log_id, tenant=row.tenant, origin=row.origin) for row in rows]

    async def old_parts(
        self, log_id: uuid.UUID, *, after: PartKey, until: uuid.UUID, limit: int
    ) -> Sequence[OldPart]:
        """Stored contents of events below the id `until`, in the order of their keys, behind one."""
        values = {
            "log_id": log_id,
            "after_id": after.event_id,
            "after_part": after.part,
            "until_id": until,
            "limit": limit,
        }
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_OLD_PARTS, values)
        return [OldPart(*row) for row in rows]

    async def old_entries(
        self, log_id: uuid.UUID, entry_type: str, *, after: tuple[datetime, int], until: datetime, limit: int
    ) -> Sequence[OldEntry]:
        """Entries of a type recorded up to `until` that may go, the oldest first, behind (time, index).

        Those without which something else could not be told are not among them.
        """
        values = {
            "log_id": log_id,
            "type": entry_type,
            "after_time": after[0],
            "after_index": after[1],
            "until": until,
            "limit": limit,
        }
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_OLD_ENTRIES, values)
        return [OldEntry(*row) for row in rows]

    async def kept(self, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, str]:
        """Those whose contents may not go now, by what keeps them: `hold ID` or `minimum DAYS`."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_KEPT, {"log_id": log_id, "event_ids": list(event_ids)})
        return {row.event_id: row.keeper for row in rows}
