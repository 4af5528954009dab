"""The statements of the transaction that appends."""

import base64
import json
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc import tables
from audit_svc.errors import month_not_ready
from audit_svc.event import Part, to_datetime
from audit_svc.log import Locked, NewTile, RepeatedError
from audit_svc.merkle import Frontier
from audit_svc.proofs import IncompleteTreeError
from audit_svc.sequence import ActorKey, EventKey, Growth, NewEntry, Placed

_LOCK = sa.text(
    "SELECT log_id, size, frontier, forgotten FROM log_head WHERE log_id = ANY(CAST(:head_ids AS uuid[]))"
    " ORDER BY log_id FOR UPDATE"
)
# One round trip for both. The lock is waited for within the statement, so what its last holder committed
# under one of these ids may be missing from the join; `write` then meets the entry's key.
_LOCK_AND_FIND = sa.text(
    "WITH head AS (SELECT log_id, size, frontier, forgotten FROM log_head"
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
# The columns of `entry` as they come in JSON: one parameter is quicker to send and to read than one a column.
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
    "leaf": "text",
    "leaf_hash": "text",
}
_AS_BYTES = {"leaf": "convert_to(leaf, 'UTF8')", "leaf_hash": "decode(leaf_hash, 'base64')"}
# One statement, and so one round trip. It writes everything or nothing: nothing comes of it where a head is
# not where it was read, which is not known before it is locked here.
_WRITE = sa.text(
    "WITH grown AS (SELECT * FROM json_to_recordset(CAST(:grown AS json)) AS grown"  # noqa: S608 -- our names
    " (log_id uuid, old_size bigint, old_root text, size bigint, frontier text, root text)),"
    " moved AS (UPDATE log_head SET size = grown.size, frontier = decode(grown.frontier, 'base64'),"
    " root = decode(grown.root, 'base64') FROM grown WHERE log_head.log_id = grown.log_id"
    " AND log_head.size = grown.old_size AND log_head.root = decode(grown.old_root, 'base64')"
    " RETURNING log_head.log_id),"
    " whole AS (SELECT FROM moved HAVING count(*) = (SELECT count(*) FROM grown)),"
    f" entries AS (INSERT INTO entry ({', '.join(_ENTRY_COLUMNS)})"
    f" SELECT {', '.join(_AS_BYTES.get(name, name) for name in _ENTRY_COLUMNS)}"
    " FROM whole, json_to_recordset(CAST(:entries AS json)) AS entry"
    f" ({', '.join(f'{name} {kind}' for name, kind in _ENTRY_COLUMNS.items())})),"
    " payloads AS (INSERT INTO payload (log_id, event_id, part, content_type, salt, body)"
    " SELECT log_id, event_id, part, content_type, decode(salt, 'base64'), decode(body, 'base64')"
    " FROM whole, json_to_recordset(CAST(:payloads AS json)) AS payload"
    " (log_id uuid, event_id uuid, part text, content_type text, salt text, body text)),"
    " tiles AS (INSERT INTO tile (log_id, tier, number, hashes, root)"
    " SELECT log_id, tier, number, decode(hashes, 'base64'), decode(root, 'base64')"
    " FROM whole, json_to_recordset(CAST(:tiles AS json)) AS tile"
    " (log_id uuid, tier smallint, number bigint, hashes text, root text))"
    " SELECT EXISTS (SELECT FROM whole)"
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
            return Locked(heads=_heads(rows), found={}, forgotten=_forgotten(rows))
        rows = (await self._connection.execute(_LOCK_AND_FIND, {**head_ids, **_key_arrays(keys)})).all()
        repeated = [row for row in rows if row.event_id is not None]
        salts = await self._salts([EventKey(row.log_id, row.event_id) for row in repeated])
        found = {
            key: Placed(index=row.leaf_index, leaf=row.leaf, leaf_hash=row.leaf_hash, salts=salts[key])
            for row in repeated
            for key in [EventKey(row.log_id, row.event_id)]
        }
        return Locked(heads=_heads(rows), found=found, forgotten=_forgotten(rows))

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
        # Cannot fail to move while the rows are locked; if it ever does, the transaction must not stand.
        if entries and not await write(self._connection, entries=entries, growth=growth, tiles=tiles):
            raise RuntimeError("a head stood elsewhere than where it was locked")


async def write(
    connection: AsyncConnection,
    *,
    entries: Sequence[NewEntry],
    growth: Mapping[uuid.UUID, Growth],
    tiles: Sequence[NewTile],
) -> bool:
    """Store everything, unless a tree is not the one that grew; then nothing, where it is only one.

    Raises RepeatedError when an event stands already.
    """
    rows = {
        "grown": _json(_grown(log_id, grown) for log_id, grown in growth.items()),
        "entries": _json(map(_entry, entries)),
        "payloads": _json(_payload(entry, part) for entry in entries for part in entry.event.parts),
        "tiles": _json(map(_tile, tiles)),
    }
    try:
        whole: bool = (await connection.execute(_WRITE, rows)).scalar_one()
    except psycopg.IntegrityError as error:
        if _EVENT_KEY.fullmatch(error.diag.constraint_name or ""):
            raise RepeatedError from error
        if isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None:
            raise month_not_ready() from error
        raise
    return whole


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


def _forgotten(rows: Sequence[Any]) -> dict[uuid.UUID, int]:
    return {row.log_id: row.forgotten for row in rows}


def _key_arrays(keys: Collection[EventKey]) -> dict[str, list[uuid.UUID]]:
    ordered = list(keys)
    return {"log_ids": [k.log_id for k in ordered], "event_ids": [k.event_id for k in ordered]}


def _json(rows: Iterable[Mapping[str, Any]]) -> str:
    return json.dumps(list(rows), ensure_ascii=False, separators=(",", ":"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _entry(entry: NewEntry) -> dict[str, Any]:
    event = entry.event
    return {
        "log_id": str(entry.log_id),
        "event_id": str(event.event_id),
        "leaf_index": entry.placed.index,
        "type": event.type,
        "producer": event.producer,
        "producer_sequence": event.producer_sequence,
        "actor": entry.pseudonym,
        "agent": event.agent,
        "agent_version": event.agent_version,
        "task_id": str(event.task_id) if event.task_id is not None else None,
        "tool": event.tool,
        "status": event.status,
        "trace_id": event.trace_id,
        "span_id": event.span_id,
        "event_time": to_datetime(event.event_time).isoformat(),
        "recorded_time": entry.recorded_time.isoformat(),
        "leaf": entry.placed.leaf.decode(),
        "leaf_hash": _base64(entry.placed.leaf_hash),
    }


def _payload(entry: NewEntry, part: Part) -> dict[str, Any]:
    return {
        "log_id": str(entry.log_id),
        "event_id": str(entry.event.event_id),
        "part": part.name,
        "content_type": part.content_type,
        "salt": _base64(entry.placed.salts[part.name]),
        "body": _base64(part.body),
    }


def _grown(log_id: uuid.UUID, grown: Growth) -> dict[str, Any]:
    return {
        "log_id": str(log_id),
        "old_size": grown.old_size,
        "old_root": _base64(grown.old_root),
        "size": grown.frontier.size,
        "frontier": _base64(grown.frontier.to_bytes()),
        "root": _base64(grown.frontier.root()),
    }


def _tile(new: NewTile) -> dict[str, Any]:
    return {
        "log_id": str(new.log_id),
        "tier": new.tile.tier,
        "number": new.tile.number,
        "hashes": _base64(b"".join(new.hashes)),
        "root": _base64(new.root),
    }
