"""What is read of the log, and the few rows that are written outside the append path."""

import operator
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSQUERY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.append_store import SqlAppendTransaction, read_hashes, write
from audit_svc.checkpoints import Head, SignedCheckpoint, Standing
from audit_svc.event import RemovedEntry, StoredEntry, StoredPart
from audit_svc.log import NewTile
from audit_svc.merkle import TILE_HEIGHT, TILE_WIDTH, Frontier, TileId, split_hashes
from audit_svc.search import Found, Place
from audit_svc.sequence import Growth, LogName, NewEntry
from audit_svc.tables import (
    actor,
    checkpoint,
    entry,
    key_change,
    log,
    log_head,
    payload,
    payload_text,
    removed_entry,
    signing_key,
    tile,
)
from svc_kit.database import Database
from svc_kit.filters import Condition, Operator
from svc_kit.ids import uuid7

_NEWEST_KEY = sa.select(sa.func.coalesce(sa.func.max(signing_key.c.number), 1)).scalar_subquery()
# Of a search for words, so many of the newest entries are looked at one by one, and at most so many.
_LOOKED_AT = 3_000
_LOOKED_AT_MOST = 30_000
_ENTRY = (entry.c.event_id, entry.c.leaf_index, entry.c.leaf, entry.c.recorded_time)


class Store:
    """All statements outside the append transaction; each names the log, so tenants stay apart."""

    def __init__(self, database: Database, *, origin_prefix: str) -> None:
        self._database = database
        self._origin_prefix = origin_prefix

    @asynccontextmanager
    async def appending(self) -> AsyncIterator[SqlAppendTransaction]:
        """A transaction that appends, committed when the block ends."""
        async with self._database.transaction() as connection:
            yield SqlAppendTransaction(connection)

    async def append_to_known(
        self, entries: Sequence[NewEntry], growth: Mapping[uuid.UUID, Growth], tiles: Sequence[NewTile]
    ) -> bool:
        """Append to one tree in one round trip, without locking it first; False where it is another by now.

        Raises RepeatedError when an event stands already.
        """
        async with self._database.autocommit() as connection:
            return await write(connection, entries=entries, growth=growth, tiles=tiles)

    async def hashes(self, log_id: uuid.UUID, tier: int, begin: int, end: int) -> Sequence[bytes]:
        """Stored hashes of one tier, from `begin` up to `end`, in order; they never change."""
        async with self._database.autocommit() as connection:
            return await read_hashes(connection, log_id, tier, begin, end)

    async def logs(self, tenants: Collection[str]) -> Mapping[str, LogName]:
        """The tenants' logs; those that do not exist are made, empty."""
        found = await self._find_logs(tenants)
        missing = sorted(set(tenants) - found.keys())
        if missing:
            await self._create_logs(missing)
            found = await self._find_logs(tenants)
        return found

    async def log_of(self, tenant: str) -> LogName | None:
        """A tenant's log, if it has one."""
        return (await self._find_logs([tenant])).get(tenant)

    async def standings(self) -> Sequence[Standing]:
        """How far every log is."""
        newest = (
            sa.select(sa.func.max(checkpoint.c.size))
            .where(checkpoint.c.log_id == log.c.log_id)
            .scalar_subquery()
        )
        statement = sa.select(
            log.c.log_id,
            log.c.tenant,
            log.c.origin,
            log_head.c.size,
            sa.func.coalesce(newest, 0).label("signed"),
        ).join(log_head, log_head.c.log_id == log.c.log_id)
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statement)
        return [
            Standing(
                name=LogName(log_id=row.log_id, tenant=row.tenant, origin=row.origin),
                size=row.size,
                signed_size=row.signed,
            )
            for row in rows
        ]

    async def newest_key(self) -> int:
        """Number of the key with which a log would begin now."""
        async with self._database.autocommit() as connection:
            number: int = (await connection.execute(sa.select(_NEWEST_KEY))).scalar_one()
        return number

    async def head(self, log_id: uuid.UUID) -> Head:
        """The committed state of a tree."""
        # A checkpoint of a tree that holds the entry of a change of key is the new key's.
        changed = (
            sa.select(sa.func.max(key_change.c.number))
            .where(key_change.c.log_id == log_id, key_change.c.leaf_index < log_head.c.size)
            .scalar_subquery()
        )
        statement = (
            sa.select(
                log_head.c.size, log_head.c.root, sa.func.greatest(log.c.first_key, changed).label("key")
            )
            .join(log, log.c.log_id == log_head.c.log_id)
            .where(log_head.c.log_id == log_id)
        )
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one()
        return Head(size=row.size, root=row.root, key=row.key)

    async def newest_note(self, log_id: uuid.UUID) -> tuple[str, datetime] | None:
        """The newest signed note and its time."""
        return await self._note(
            sa.select(checkpoint.c.note, checkpoint.c.sign_time)
            .where(checkpoint.c.log_id == log_id)
            .order_by(checkpoint.c.size.desc())
            .limit(1)
        )

    async def note_at(self, log_id: uuid.UUID, size: int) -> tuple[str, datetime] | None:
        """The signed note of one size and its time."""
        return await self._note(
            sa.select(checkpoint.c.note, checkpoint.c.sign_time).where(
                checkpoint.c.log_id == log_id, checkpoint.c.size == size
            )
        )

    async def save_note(self, log_id: uuid.UUID, signed: SignedCheckpoint) -> None:
        """Keep a checkpoint; one of the same size that is there already stays."""
        row = {
            "log_id": log_id,
            "size": signed.checkpoint.size,
            "root": signed.checkpoint.root,
            "note": signed.note,
            "sign_time": signed.sign_time,
        }
        async with self._database.autocommit() as connection:
            await connection.execute(insert(checkpoint).values(row).on_conflict_do_nothing())

    async def tiles(
        self, log_id: uuid.UUID, tiles: Collection[TileId], size: int
    ) -> Mapping[TileId, Sequence[bytes]]:
        """The tiles of the tree, with at least the hashes that they have at `size` leaves."""
        wanted = sorted(tiles)
        statement = sa.select(tile.c.tier, tile.c.number, tile.c.hashes).where(
            tile.c.log_id == log_id, sa.tuple_(tile.c.tier, tile.c.number).in_(wanted)
        )
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statement)
            found: dict[TileId, Sequence[bytes]] = {
                TileId(row.tier, row.number): split_hashes(row.hashes) for row in rows
            }
            for missing in wanted:
                if missing not in found:
                    # Not full yet: its hashes are those of the entries, or of the full tiles below.
                    begin = missing.number * TILE_WIDTH
                    end = min(begin + TILE_WIDTH, size >> (TILE_HEIGHT * missing.tier))
                    found[missing] = await read_hashes(connection, log_id, missing.tier, begin, end)
        return found

    async def entry(self, log_id: uuid.UUID, event_id: uuid.UUID, *, with_bodies: bool) -> StoredEntry | None:
        """One entry by its event id."""
        statement = sa.select(*_ENTRY).where(entry.c.log_id == log_id, entry.c.event_id == event_id)
        found = await self._entries(log_id, statement, with_bodies=with_bodies)
        return found[0] if found else None

    async def leaf_hash(self, log_id: uuid.UUID, index: int) -> bytes | None:
        """The leaf hash at an index, also of an entry that was removed."""
        statement = sa.select(entry.c.leaf_hash).where(entry.c.log_id == log_id, entry.c.leaf_index == index)
        async with self._database.autocommit() as connection:
            found: bytes | None = (await connection.execute(statement)).scalar_one_or_none()
        if found is None:
            removed = await self.removed_entries(log_id, index, index + 1)
            found = removed[0].leaf_hash if removed else None
        return found

    async def removed_entries(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[RemovedEntry]:
        """What is left of removed entries in order, from index `begin` below `end`."""
        columns = (removed_entry.c.leaf_index, removed_entry.c.leaf_hash, removed_entry.c.explained_by)
        statement = (
            sa.select(*columns)
            .where(removed_entry.c.log_id == log_id)
            .where(removed_entry.c.leaf_index >= begin, removed_entry.c.leaf_index < end)
            .order_by(removed_entry.c.leaf_index)
        )
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statement)
        return [RemovedEntry(index=row[0], leaf_hash=row[1], explained_by=row[2]) for row in rows]

    async def task_entry_sizes(
        self, log_id: uuid.UUID, task_id: uuid.UUID, *, begin: int, end: int, limit: int
    ) -> Sequence[tuple[int, int, int]]:
        """(index, bytes of leaf, bytes of parts) of a task's entries in order, from `begin` below `end`."""
        return await self._sizes(log_id, begin, end, entry.c.task_id == task_id, limit=limit)

    async def entry_sizes(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[tuple[int, int, int]]:
        """(index, bytes of leaf, bytes of parts) of entries in order, from `begin` below `end`."""
        return await self._sizes(log_id, begin, end, sa.true(), limit=end - begin)

    async def _sizes(
        self, log_id: uuid.UUID, begin: int, end: int, which: sa.ColumnElement[bool], *, limit: int
    ) -> Sequence[tuple[int, int, int]]:
        bodies = (
            sa.select(sa.func.coalesce(sa.func.sum(sa.func.octet_length(payload.c.body)), 0))
            .where(payload.c.log_id == log_id, payload.c.event_id == entry.c.event_id)
            .scalar_subquery()
        )
        statement = (
            sa.select(entry.c.leaf_index, sa.func.octet_length(entry.c.leaf), bodies)
            .where(entry.c.log_id == log_id, which)
            .where(entry.c.leaf_index >= begin, entry.c.leaf_index < end)
            .order_by(entry.c.leaf_index)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statement)
        return [(row[0], row[1], int(row[2])) for row in rows]

    async def entries_between(
        self, log_id: uuid.UUID, begin: int, end: int, *, with_bodies: bool
    ) -> Sequence[StoredEntry]:
        """Entries in order, from index `begin` below `end`."""
        statement = (
            sa.select(*_ENTRY)
            .where(entry.c.log_id == log_id, entry.c.leaf_index >= begin, entry.c.leaf_index < end)
            .order_by(entry.c.leaf_index)
        )
        return await self._entries(log_id, statement, with_bodies=with_bodies)

    async def task_entries(
        self, log_id: uuid.UUID, task_id: uuid.UUID, *, begin: int, end: int, with_bodies: bool
    ) -> Sequence[StoredEntry]:
        """A task's entries in order, from index `begin` below `end`."""
        statement = (
            sa.select(*_ENTRY)
            .where(entry.c.log_id == log_id, entry.c.task_id == task_id)
            .where(entry.c.leaf_index >= begin, entry.c.leaf_index < end)
            .order_by(entry.c.leaf_index)
        )
        return await self._entries(log_id, statement, with_bodies=with_bodies)

    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None:
        """What somebody is called in a log; None for one who never did anything."""
        statement = sa.select(actor.c.pseudonym).where(actor.c.log_id == log_id, actor.c.subject == subject)
        async with self._database.autocommit() as connection:
            found: str | None = (await connection.execute(statement)).scalar_one_or_none()
        return found

    async def find_entries(
        self,
        log_id: uuid.UUID,
        conditions: Sequence[Condition],
        *,
        text: str,
        size: int,
        after: Place | None,
        limit: int,
    ) -> Sequence[Found]:
        """Entries among the first `size` that fulfil every condition, newest first, behind a place.

        With `text`, only those that have a content with such words, as a search engine on the web takes them.
        """
        place = sa.tuple_(entry.c.recorded_time, entry.c.leaf_index)
        columns = (
            entry.c.event_id,
            entry.c.recorded_time,
            entry.c.leaf_index,
            sa.func.octet_length(entry.c.leaf).label("leaf_bytes"),
        )
        found = (
            sa.select(*columns)
            .where(entry.c.log_id == log_id, entry.c.leaf_index < size, *map(holds, conditions))
            .order_by(entry.c.recorded_time.desc(), entry.c.leaf_index.desc())
        )
        if after is not None:
            found = found.where(
                place < sa.tuple_(sa.literal(after.recorded_time), sa.literal(after.leaf_index))
            )
        async with self._database.autocommit() as connection:
            if text:
                rows = await _with_words(connection, found, log_id, text, limit=limit)
            else:
                rows = (await connection.execute(found.limit(limit))).all()
            bodies = await _body_bytes(connection, log_id, [row[0] for row in rows])
        return [Found(row[0], Place(row[1], row[2]), row[3], bodies.get(row[0], 0)) for row in rows]

    async def entries(
        self, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID], *, with_bodies: bool
    ) -> Sequence[StoredEntry]:
        """Entries by their event ids, in no order."""
        statement = sa.select(*_ENTRY).where(
            entry.c.log_id == log_id, entry.c.event_id == sa.any_(sa.cast(event_ids, sa.ARRAY(sa.Uuid)))
        )
        return await self._entries(log_id, statement, with_bodies=with_bodies)

    async def _entries(
        self, log_id: uuid.UUID, statement: sa.Select[uuid.UUID, int, bytes, datetime], *, with_bodies: bool
    ) -> list[StoredEntry]:
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(statement)).all()
            parts = await _parts(connection, log_id, [row.event_id for row in rows], with_bodies=with_bodies)
        return [
            StoredEntry(
                event_id=row.event_id,
                index=row.leaf_index,
                leaf=row.leaf,
                recorded_time=row.recorded_time,
                parts=tuple(parts.get(row.event_id, ())),
            )
            for row in rows
        ]

    async def _note(self, statement: sa.Select[str, datetime]) -> tuple[str, datetime] | None:
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return (row.note, row.sign_time) if row is not None else None

    async def _find_logs(self, tenants: Collection[str]) -> dict[str, LogName]:
        columns = (log.c.log_id, log.c.tenant, log.c.origin, log.c.first_key)
        statement = sa.select(*columns).where(log.c.tenant.in_(list(tenants)))
        async with self._database.autocommit() as connection:
            rows = await connection.execute(statement)
        return {row.tenant: LogName(**row._asdict()) for row in rows}

    async def _create_logs(self, tenants: Sequence[str]) -> None:
        """In the order of their names, so that two replicas that meet here wait for each other and go on."""
        empty = Frontier()
        async with self._database.transaction() as connection:
            for tenant in tenants:
                made = await connection.execute(
                    insert(log)
                    .values(
                        log_id=uuid7(),
                        tenant=tenant,
                        origin=f"{self._origin_prefix}/{tenant}",
                        first_key=_NEWEST_KEY,
                    )
                    .on_conflict_do_nothing()
                    .returning(log.c.log_id)
                )
                log_id = made.scalar_one_or_none()
                if log_id is not None:
                    values = {"size": 0, "frontier": empty.to_bytes(), "root": empty.root()}
                    await connection.execute(insert(log_head).values(log_id=log_id, **values))


_COMPARED: Mapping[Operator, Callable[[Any, Any], sa.ColumnElement[bool]]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def holds(condition: Condition) -> sa.ColumnElement[bool]:
    """What an entry's row has to be to meet a condition."""
    column = entry.c[condition.field]
    return _COMPARED[condition.operator](column, sa.literal(condition.value, column.type))


async def _with_words(
    connection: AsyncConnection, found: sa.Select[Any], log_id: uuid.UUID, text: str, *, limit: int
) -> Sequence[Any]:
    """The first of `found` that have a content with these words.

    Whoever plans a statement does not know how rare a word is. So the newest entries are looked at one by
    one, which finds enough of a common word; and where that was not enough, all that the index has of it.
    """
    # Within the index, the log's own word keeps logs apart.
    asked = sa.func.websearch_to_tsquery(sa.text("'pg_catalog.simple'"), text)
    fits = payload_text.c.words.bool_op("@@")(asked.op("&&")(sa.cast(f"'log:{log_id}'", TSQUERY)))
    looked_at = _LOOKED_AT
    while looked_at <= _LOOKED_AT_MOST:
        common = _newest_with(found.limit(looked_at).subquery(), log_id, fits, limit)
        rows: Sequence[Any] = (await connection.execute(common)).all()
        if len(rows) == limit:
            return rows
        # As often as it came so far, so many more would be enough, and half of that for luck.
        looked_at = max(looked_at + 1, looked_at * limit * 3 // (2 * max(1, len(rows))))
    rare = sa.select(payload_text.c.event_id).distinct().where(fits).cte("rare").prefix_with("MATERIALIZED")
    # Put in order afterwards (OFFSET keeps it apart): else the log is gone through in its order, all of it.
    chosen = found.join(rare, rare.c.event_id == entry.c.event_id).order_by(None).offset(0).subquery()
    return list((await connection.execute(_newest_first(chosen, chosen, limit))).all())


def _newest_with(
    newest: sa.Subquery, log_id: uuid.UUID, fits: sa.ColumnElement[bool], limit: int
) -> sa.Select[Any]:
    content = (
        sa.select(payload_text.c.part)
        .where(payload_text.c.log_id == log_id, payload_text.c.event_id == newest.c.event_id, fits)
        .limit(1)
        .lateral()
    )
    return _newest_first(newest.join(content, sa.true()), newest, limit)


def _newest_first(rows: sa.FromClause, entries: sa.Subquery, limit: int) -> sa.Select[Any]:
    order = (entries.c.recorded_time.desc(), entries.c.leaf_index.desc())
    return sa.select(*entries.c).select_from(rows).order_by(*order).limit(limit)


async def _body_bytes(
    connection: AsyncConnection, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, int]:
    statement = (
        sa.select(payload.c.event_id, sa.func.sum(sa.func.octet_length(payload.c.body)))
        .where(
            payload.c.log_id == log_id,
            payload.c.event_id == sa.any_(sa.cast(event_ids, sa.ARRAY(sa.Uuid))),
        )
        .group_by(payload.c.event_id)
    )
    return {row[0]: int(row[1]) for row in await connection.execute(statement)}


async def _parts(
    connection: AsyncConnection, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID], *, with_bodies: bool
) -> dict[uuid.UUID, list[StoredPart]]:
    contents = (payload.c.salt, payload.c.body) if with_bodies else ()
    statement = sa.select(payload.c.event_id, payload.c.part, payload.c.content_type, *contents).where(
        payload.c.log_id == log_id, payload.c.event_id == sa.any_(sa.cast(event_ids, sa.ARRAY(sa.Uuid)))
    )
    parts: dict[uuid.UUID, list[StoredPart]] = {}
    for row in await connection.execute(statement):
        part = StoredPart(
            name=row.part,
            content_type=row.content_type,
            salt=row.salt if with_bodies else b"",
            body=row.body if with_bodies else b"",
        )
        parts.setdefault(row.event_id, []).append(part)
    return parts
