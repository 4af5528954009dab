"""The statements of the transaction that appends."""

import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc import tables
from audit_svc.errors import month_not_ready
from audit_svc.event import to_datetime
from audit_svc.log import Locked, NewTile, RepeatedError
from audit_svc.merkle import Frontier
from audit_svc.proofs import IncompleteTreeError
from audit_svc.sequence import ActorKey, EventKey, Growth, NewEntry, Placed

_LOCK = sa.text(
    "SELECT log_id, size, frontier FROM log_head WHERE log_id = ANY(CAST(:head_ids AS uuid[]))"
    " ORDER BY log_id FOR UPDATE"
)
# One round trip for both. The lock is waited for within the statement, so what its last holder committed
# under one of these ids may be missing from the join; `write` then meets the entry's key.
_LOCK_AND_FIND = sa.text(
    "WITH head AS (SELECT log_id, size, frontier FROM log_head"
    " WHERE log_id = ANY(CAST(:head_ids AS uuid[])) ORDER BY log_id FOR UPDATE)"
    " SELECT head.*, entry.event_id, entry.leaf_index, entry.leaf, entry.leaf_hash"
    " FROM head LEFT JOIN"
    " (unnest(CAST(:log_ids AS uuid[]), CAST(:event_ids AS uuid[])) AS wanted (log_id, event_id)"
    " JOIN entry ON entry.log_id = wanted.log_id AND entry.event_id = wanted.event_id)"
    " ON wanted.log_id = head.log_id"
)
_FIND_SALTS = sa.text(
    "SELECT payload.log_id, payload.event_id, payload.part, payload.salt"
    " FROM unnest(CAST(:log_ids AS uuid[]), CAST(:event_ids AS uuid[])) AS wanted (log_id, event_id)"
    " JOIN payload ON payload.log_id = wanted.log_id AND payload.event_id = wanted.event_id"
)
_ADD_ACTORS = sa.text(
    "INSERT INTO actor (log_id, pseudonym, subject)"
    " SELECT * FROM unnest(CAST(:log_ids AS uuid[]), CAST(:pseudonyms AS text[]), CAST(:subjects AS text[]))"
    " ON CONFLICT (log_id, subject) DO NOTHING"
)
_READ_ACTORS = sa.text(
    "SELECT actor.log_id, actor.subject, actor.pseudonym"
    " FROM unnest(CAST(:log_ids AS uuid[]), CAST(:subjects AS text[])) AS wanted (log_id, subject)"
    " JOIN actor ON actor.log_id = wanted.log_id AND actor.subject = wanted.subject"
)
_WRITE_TILES = sa.text(
    "INSERT INTO tile (log_id, tier, number, hashes, root)"
    " SELECT * FROM unnest(CAST(:log_ids AS uuid[]), CAST(:tiers AS smallint[]), CAST(:numbers AS bigint[]),"
    " CAST(:hashes AS bytea[]), CAST(:roots AS bytea[]))"
)

# The columns of `entry` and the types of the arrays they are sent as.
_ENTRY_COLUMNS = {
    "log_id": "uuid",
    "event_id": "uuid",
    "leaf_index": "bigint",
    "type": "text",
    "producer": "text",
    "producer_sequence": "bigint",
    "actor": "text",
    "agent": "text",
    "agent_version": "text",
    "task_id": "uuid",
    "tool": "text",
    "status": "text",
    "trace_id": "text",
    "span_id": "text",
    "event_time": "timestamptz",
    "recorded_time": "timestamptz",
    "leaf": "bytea",
    "leaf_hash": "bytea",
}
_ENTRY_ARRAYS = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _ENTRY_COLUMNS.items())
# One statement, and so one round trip, while the heads are locked.
_WRITE_ENTRIES = sa.text(
    f"WITH entries AS (INSERT INTO entry ({', '.join(_ENTRY_COLUMNS)})"  # noqa: S608 -- names from above
    f" SELECT * FROM unnest({_ENTRY_ARRAYS})),"
    " payloads AS (INSERT INTO payload (log_id, event_id, part, content_type, salt, body)"
    " SELECT * FROM unnest(CAST(:part_log_ids AS uuid[]), CAST(:part_event_ids AS uuid[]),"
    " CAST(:parts AS text[]), CAST(:content_types AS text[]), CAST(:salts AS bytea[]),"
    " CAST(:bodies AS bytea[])))"
    " UPDATE log_head SET size = grown.size, frontier = grown.frontier, root = grown.root"
    " FROM unnest(CAST(:grown_ids AS uuid[]), CAST(:old_sizes AS bigint[]), CAST(:sizes AS bigint[]),"
    " CAST(:frontiers AS bytea[]), CAST(:roots AS bytea[])) AS grown (log_id, old_size, size, frontier, root)"
    " WHERE log_head.log_id = grown.log_id AND log_head.size = grown.old_size"
)
# What a repeat that was not found runs into, in the month of its id; which of them first is up to Postgres.
_EVENT_KEY = re.compile(r"(entry|payload)_\w+_pkey")


class SqlAppendTransaction:
    """An open transaction of the append path."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @property
    def connection(self) -> AsyncConnection:
        """The open transaction, for rows that must stand or fall with the entries."""
        return self._connection

    async def lock(self, log_ids: Collection[uuid.UUID], keys: Collection[EventKey]) -> Locked:
        """The trees as they stand, locked in the order of their ids, which is the same for all replicas.

        Also those of the events under `keys` that stand already.
        """
        head_ids = {"head_ids": sorted(log_ids)}
        if not keys:
            rows = (await self._connection.execute(_LOCK, head_ids)).all()
            return Locked(heads=_heads(rows), found={})
        rows = (await self._connection.execute(_LOCK_AND_FIND, {**head_ids, **_key_arrays(keys)})).all()
        repeated = [row for row in rows if row.event_id is not None]
        salts = await self._salts([EventKey(row.log_id, row.event_id) for row in repeated])
        found = {
            key: Placed(index=row.leaf_index, leaf=row.leaf, leaf_hash=row.leaf_hash, salts=salts[key])
            for row in repeated
            for key in [EventKey(row.log_id, row.event_id)]
        }
        return Locked(heads=_heads(rows), found=found)

    async def _salts(self, keys: Collection[EventKey]) -> Mapping[EventKey, Mapping[str, bytes]]:
        salts: dict[EventKey, dict[str, bytes]] = {key: {} for key in keys}
        if salts:
            for row in await self._connection.execute(_FIND_SALTS, _key_arrays(keys)):
                salts[EventKey(row.log_id, row.event_id)][row.part] = row.salt
        return salts

    async def pseudonyms(self, wanted: Mapping[ActorKey, str]) -> Mapping[ActorKey, str]:
        """The pseudonym of each actor; the one offered is stored for an actor that has none yet."""
        keys = sorted(wanted)
        arrays = {"log_ids": [key.log_id for key in keys], "subjects": [key.subject for key in keys]}
        pseudonyms = [wanted[key] for key in keys]
        await self._connection.execute(_ADD_ACTORS, {**arrays, "pseudonyms": pseudonyms})
        rows = await self._connection.execute(_READ_ACTORS, arrays)
        return {ActorKey(row.log_id, row.subject): row.pseudonym for row in rows}

    async def hashes(self, log_id: uuid.UUID, tier: int, begin: int, end: int) -> Sequence[bytes]:
        """Stored hashes of one tier, from `begin` up to `end`, in order."""
        return await read_hashes(self._connection, log_id, tier, begin, end)

    async def write(
        self,
        *,
        entries: Sequence[NewEntry],
        growth: Mapping[uuid.UUID, Growth],
        tiles: Sequence[NewTile],
    ) -> None:
        """Store everything; RepeatedError when an event stands already that `lock` did not find."""
        if not entries:
            return
        if tiles:
            await self._connection.execute(_WRITE_TILES, _tile_arrays(tiles))
        arrays = _entry_arrays(entries) | _payload_arrays(entries) | _growth_arrays(growth)
        try:
            moved = (await self._connection.execute(_WRITE_ENTRIES, arrays)).rowcount
        except psycopg.IntegrityError as error:
            if _EVENT_KEY.fullmatch(error.diag.constraint_name or ""):
                raise RepeatedError from error
            if isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None:
                raise month_not_ready() from error
            raise
        # Cannot happen while the rows are locked; if it ever does, the transaction must not stand.
        if moved != len(growth):
            raise RuntimeError(f"{moved} of {len(growth)} heads stood where they were locked")


async def read_hashes(
    connection: AsyncConnection, log_id: uuid.UUID, tier: int, begin: int, end: int
) -> Sequence[bytes]:
    """Hashes of one tier in order: leaf hashes at tier 0, the roots of full tiles above.

    Raises IncompleteTreeError when one is missing: a hash in the wrong place would spoil every proof.
    """
    if begin == end:
        return ()
    if tier == 0:
        place, value = tables.entry.c.leaf_index, tables.entry.c.leaf_hash
        where = [tables.entry.c.log_id == log_id]
    else:
        place, value = tables.tile.c.number, tables.tile.c.root
        where = [tables.tile.c.log_id == log_id, tables.tile.c.tier == tier - 1]
    statement = sa.select(place, value).where(*where, place >= begin, place < end).order_by(place)
    found = (await connection.execute(statement)).all()
    if [row[0] for row in found] != list(range(begin, end)):
        raise IncompleteTreeError(f"hashes of tier {tier} between {begin} and {end} are missing")
    return [row[1] for row in found]


def _heads(rows: Sequence[Any]) -> dict[uuid.UUID, Frontier]:
    return {row.log_id: Frontier.from_bytes(row.size, row.frontier) for row in rows}


def _key_arrays(keys: Collection[EventKey]) -> dict[str, list[uuid.UUID]]:
    ordered = list(keys)
    return {"log_ids": [k.log_id for k in ordered], "event_ids": [k.event_id for k in ordered]}


def _entry_arrays(entries: Sequence[NewEntry]) -> dict[str, object]:
    return {
        "log_id": [e.log_id for e in entries],
        "event_id": [e.event.event_id for e in entries],
        "leaf_index": [e.placed.index for e in entries],
        "type": [e.event.type for e in entries],
        "producer": [e.event.producer for e in entries],
        "producer_sequence": [e.event.producer_sequence for e in entries],
        "actor": [e.pseudonym for e in entries],
        "agent": [e.event.agent for e in entries],
        "agent_version": [e.event.agent_version for e in entries],
        "task_id": [e.event.task_id for e in entries],
        "tool": [e.event.tool for e in entries],
        "status": [e.event.status for e in entries],
        "trace_id": [e.event.trace_id for e in entries],
        "span_id": [e.event.span_id for e in entries],
        "event_time": [to_datetime(e.event.event_time) for e in entries],
        "recorded_time": [e.recorded_time for e in entries],
        "leaf": [e.placed.leaf for e in entries],
        "leaf_hash": [e.placed.leaf_hash for e in entries],
    }


def _growth_arrays(growth: Mapping[uuid.UUID, Growth]) -> dict[str, object]:
    return {
        "grown_ids": list(growth),
        "old_sizes": [grown.old_size for grown in growth.values()],
        "sizes": [grown.frontier.size for grown in growth.values()],
        "frontiers": [grown.frontier.to_bytes() for grown in growth.values()],
        "roots": [grown.frontier.root() for grown in growth.values()],
    }


def _payload_arrays(entries: Sequence[NewEntry]) -> dict[str, object]:
    rows = [(entry, part) for entry in entries for part in entry.event.parts]
    return {
        "part_log_ids": [entry.log_id for entry, _ in rows],
        "part_event_ids": [entry.event.event_id for entry, _ in rows],
        "parts": [part.name for _, part in rows],
        "content_types": [part.content_type for _, part in rows],
        "salts": [entry.placed.salts[part.name] for entry, part in rows],
        "bodies": [part.body for _, part in rows],
    }


def _tile_arrays(tiles: Sequence[NewTile]) -> dict[str, object]:
    return {
        "log_ids": [new.log_id for new in tiles],
        "tiers": [new.tile.tier for new in tiles],
        "numbers": [new.tile.number for new in tiles],
        "hashes": [b"".join(new.hashes) for new in tiles],
        "roots": [new.root for new in tiles],
    }
