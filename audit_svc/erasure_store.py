"""The journal of erasures, and the contents that they are after."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.erasure import Erasure, ErasureState, Selector
from audit_svc.removal_store import PlacedPart
from audit_svc.removals import Removed
from audit_svc.tables import actor, entry, erasure, payload
from interlock.verify.gaps import REMOVED
from svc_kit.database import Database

# Their contents tell of gaps: without them these would be unexplained.
_KEPT = ("ERASURE", "RETENTION", "HOLD", "KEY_ROTATION")

_REACH = sa.text(
    "UPDATE erasure SET waiting_for = '', reached = reached || (SELECT coalesce(jsonb_object_agg("
    "name, coalesce((reached ->> name)::bigint, 0) + rows), '{}')"
    " FROM unnest(CAST(:names AS text[]), CAST(:rows AS bigint[])) AS now (name, rows))"
    " WHERE erasure_id = :erasure_id"
)
_REMOVED = sa.text(
    "UPDATE erasure SET waiting_for = '', explained_by = explained_by || CAST(:leaf_index AS bigint),"
    " files = ARRAY(SELECT DISTINCT unnest(files || CAST(:files AS text[])) ORDER BY 1),"
    " reached = reached || jsonb_build_object(CAST(:name AS text),"
    " coalesce((reached ->> CAST(:name AS text))::bigint, 0) + :rows)"
    " WHERE erasure_id = :erasure_id"
)
_REWRITE = sa.text("SELECT rewrite_contents(:file, :most_bytes)")


class ErasureStore:
    """Erasures of all tenants; what is asked for somebody names the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, new: Erasure) -> Erasure:
        """Write it down; what stands under its request id already is answered instead."""
        values = {
            "erasure_id": new.erasure_id,
            "log_id": new.log_id,
            "tenant": new.tenant,
            "request_id": new.request_id,
            "task_id": new.selector.task_id,
            "event_id": new.selector.event_id,
            "actor": new.selector.actor or None,
            "part": new.selector.part,
            "reason": new.reason,
            "requester": new.requester,
            "state": new.state,
            "create_time": new.create_time,
        }
        same = (erasure.c.log_id == new.log_id, erasure.c.request_id == new.request_id)
        async with self._database.transaction() as connection:
            made = insert(erasure).values(values).on_conflict_do_nothing().returning(erasure)
            row = (await connection.execute(made)).one_or_none()
            if row is None:
                row = (await connection.execute(sa.select(erasure).where(*same))).one()
        return _erasure(row)

    async def stands(self, log_id: uuid.UUID, request_id: uuid.UUID | None) -> Erasure | None:
        """The one that was begun under a request id, if one was."""
        if request_id is None:
            return None
        statement = sa.select(erasure).where(erasure.c.log_id == log_id, erasure.c.request_id == request_id)
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return _erasure(row) if row is not None else None

    async def named(self, log_id: uuid.UUID, pseudonym: str) -> bool:
        """Whether somebody is known to stand behind a pseudonym."""
        statement = sa.select(actor.c.pseudonym).where(
            actor.c.log_id == log_id, actor.c.pseudonym == pseudonym
        )
        async with self._database.autocommit() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def find(self, log_id: uuid.UUID, erasure_id: uuid.UUID) -> Erasure | None:
        """One of a log's."""
        statement = sa.select(erasure).where(erasure.c.log_id == log_id, erasure.c.erasure_id == erasure_id)
        async with self._database.autocommit() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return _erasure(row) if row is not None else None

    async def page(
        self, log_id: uuid.UUID, *, after: tuple[datetime, uuid.UUID] | None, limit: int
    ) -> Sequence[Erasure]:
        """A log's, the newest first."""
        place = sa.tuple_(erasure.c.create_time, erasure.c.erasure_id)
        statement = (
            sa.select(erasure)
            .where(erasure.c.log_id == log_id)
            .order_by(erasure.c.create_time.desc(), erasure.c.erasure_id.desc())
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(place < sa.tuple_(sa.literal(after[0]), sa.literal(after[1])))
        async with self._database.autocommit() as connection:
            return [_erasure(row) for row in await connection.execute(statement)]

    async def open(self, *, after: datetime | None, limit: int) -> Sequence[Erasure]:
        """Those that are not complete, of all logs, begun later than `after`, the oldest first."""
        statement = (
            sa.select(erasure)
            .where(erasure.c.state != ErasureState.COMPLETE)
            .order_by(erasure.c.create_time)
            .limit(limit)
        )
        if after is not None:
            statement = statement.where(erasure.c.create_time > after)
        async with self._database.autocommit() as connection:
            return [_erasure(row) for row in await connection.execute(statement)]

    async def parts(self, log_id: uuid.UUID, selector: Selector, *, limit: int) -> Sequence[PlacedPart]:
        """Contents that are still stored of what it selects, in the order of the log."""
        statement = (
            sa.select(entry.c.event_id, entry.c.leaf_index, payload.c.part)
            .join(payload, sa.and_(payload.c.log_id == log_id, payload.c.event_id == entry.c.event_id))
            .where(entry.c.log_id == log_id, _selected(selector), entry.c.type.not_in(_KEPT))
            .where(payload.c.part == selector.part if selector.part else payload.c.part != REMOVED)
            .order_by(entry.c.leaf_index, payload.c.part)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            return [PlacedPart(*row) for row in await connection.execute(statement)]

    async def knows(self, log_id: uuid.UUID, selector: Selector) -> bool:
        """Whether the log has an entry of what is selected, with contents or without."""
        statement = (
            sa.select(entry.c.leaf_index).where(entry.c.log_id == log_id, _selected(selector)).limit(1)
        )
        async with self._database.autocommit() as connection:
            return (await connection.execute(statement)).one_or_none() is not None

    async def wait(self, erasure_id: uuid.UUID, what: str) -> None:
        """Note what holds it up."""
        await self._set(erasure_id, ErasureState.RUNNING, waiting_for=what)

    async def reached(self, erasure_id: uuid.UUID, rows: Sequence[tuple[str, int]]) -> None:
        """Add to what it reached, by "service.table"."""
        values = {"names": [name for name, _ in rows], "rows": [count for _, count in rows]}
        async with self._database.autocommit() as connection:
            await connection.execute(_REACH, {"erasure_id": erasure_id, **values})

    async def erased(self, erasure_id: uuid.UUID, now: datetime) -> None:
        """Nothing of it can be read any more."""
        values = {"state": ErasureState.ERASED, "erase_time": now, "waiting_for": ""}
        await self._set(erasure_id, ErasureState.RUNNING, **values)

    async def rewritten(self, erasure_id: uuid.UUID, left: Sequence[str], *, waiting_for: str) -> None:
        """Which files are left to be written anew."""
        await self._set(erasure_id, ErasureState.ERASED, files=list(left), waiting_for=waiting_for)

    async def complete(self, erasure_id: uuid.UUID, now: datetime) -> None:
        """All of it is done."""
        values = {"state": ErasureState.COMPLETE, "complete_time": now, "files": [], "waiting_for": ""}
        await self._set(erasure_id, ErasureState.ERASED, **values)

    async def rewrite(self, file: str, *, most_bytes: int) -> bool:
        """Write a table of contents anew, without what was deleted; False while it is too large or in use."""
        async with self._database.transaction() as connection:
            parameters = {"file": file, "most_bytes": most_bytes}
            done: bool = (await connection.execute(_REWRITE, parameters)).scalar_one()
        return done

    async def _set(self, erasure_id: uuid.UUID, current: ErasureState, **values: Any) -> None:
        """Only while it is in that state: another process may have brought it further."""
        statement = (
            sa.update(erasure)
            .where(erasure.c.erasure_id == erasure_id, erasure.c.state == current)
            .values(**values)
        )
        async with self._database.autocommit() as connection:
            await connection.execute(statement)


async def note_removed(
    connection: AsyncConnection, erasure_id: uuid.UUID, table: str, removed: Removed
) -> None:
    """In the transaction that removes: which entry tells of it, and which files are to be written anew."""
    values = {
        "leaf_index": removed.told_at,
        "name": f"audit.{table}",
        "rows": removed.rows,
        "files": list(removed.files),
    }
    await connection.execute(_REMOVED, {"erasure_id": erasure_id, **values})


def _selected(selector: Selector) -> sa.ColumnElement[bool]:
    if selector.task_id is not None:
        return entry.c.task_id == selector.task_id
    chosen = entry.c.event_id == selector.event_id
    if not selector.part:
        return chosen
    kept = payload.alias("kept").c
    stored = sa.select(kept.part).where(kept.log_id == entry.c.log_id, kept.event_id == entry.c.event_id)
    return chosen & stored.where(kept.part == selector.part).exists()


def _erasure(row: Any) -> Erasure:
    return Erasure(
        erasure_id=row.erasure_id,
        log_id=row.log_id,
        tenant=row.tenant,
        request_id=row.request_id,
        selector=Selector(task_id=row.task_id, event_id=row.event_id, actor=row.actor or "", part=row.part),
        reason=row.reason,
        requester=row.requester,
        state=ErasureState(row.state),
        waiting_for=row.waiting_for,
        create_time=row.create_time,
        erase_time=row.erase_time,
        complete_time=row.complete_time,
        reached=row.reached,
        explained_by=tuple(row.explained_by),
        files=tuple(row.files),
    )
