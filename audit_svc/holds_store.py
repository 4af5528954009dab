"""The statements of legal holds."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.holds import Hold, Release, Selector
from svc_kit.database import Database

_ADD = sa.text(
    "INSERT INTO hold"
    " (log_id, hold_id, task_id, agent, actor, type, begin_time, end_time, reason, place_time)"
    " VALUES (:log_id, :hold_id, :task_id, :agent, :actor, :type, :begin_time, :end_time, :reason,"
    " :place_time)"
)
_RELEASE = sa.text(
    "INSERT INTO hold_release (log_id, hold_id, event_id, reason, release_time)"
    " VALUES (:log_id, :hold_id, :event_id, :reason, :release_time)"
    " ON CONFLICT (log_id, hold_id) DO NOTHING"
)
_READ = (
    "SELECT hold.*, gone.event_id AS release_event_id, gone.reason AS release_reason, gone.release_time"
    " FROM hold LEFT JOIN hold_release AS gone"
    " ON gone.log_id = hold.log_id AND gone.hold_id = hold.hold_id WHERE hold.log_id = :log_id"
)
_ONE = sa.text(f"{_READ} AND hold.hold_id = :hold_id")
_PAGE = sa.text(
    f"{_READ} AND hold.hold_id < :before AND (:released OR gone.hold_id IS NULL)"
    " ORDER BY hold.hold_id DESC LIMIT :limit"
)
_LAST = uuid.UUID(int=2**128 - 1)


class HoldStore:
    """Holds and their releases are added, never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, connection: AsyncConnection, log_id: uuid.UUID, hold: Hold) -> None:
        """Store a hold in the transaction of the entry that tells of it."""
        selector = hold.selector
        values = {
            "log_id": log_id,
            "hold_id": hold.hold_id,
            "task_id": selector.task_id,
            "agent": selector.agent,
            "actor": selector.actor,
            "type": selector.type,
            "begin_time": selector.begin_time,
            "end_time": selector.end_time,
            "reason": hold.reason,
            "place_time": hold.place_time,
        }
        await connection.execute(_ADD, values)

    async def release(
        self, connection: AsyncConnection, log_id: uuid.UUID, hold_id: uuid.UUID, release: Release
    ) -> bool:
        """Store a release in the transaction of its entry; False where the hold is released already."""
        values = {
            "log_id": log_id,
            "hold_id": hold_id,
            "event_id": release.event_id,
            "reason": release.reason,
            "release_time": release.time,
        }
        return bool((await connection.execute(_RELEASE, values)).rowcount)

    async def hold(self, log_id: uuid.UUID, hold_id: uuid.UUID) -> Hold | None:
        """One hold."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_ONE, {"log_id": log_id, "hold_id": hold_id})).one_or_none()
        return _hold(row) if row is not None else None

    async def holds(
        self, log_id: uuid.UUID, *, before: uuid.UUID | None, released: bool, limit: int
    ) -> Sequence[Hold]:
        """Holds older than one, the newest first."""
        values = {"log_id": log_id, "before": before or _LAST, "released": released, "limit": limit}
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_PAGE, values)
        return [_hold(row) for row in rows]


def _hold(row: Any) -> Hold:
    when: datetime | None = row.release_time
    release = None
    if when is not None:
        release = Release(event_id=row.release_event_id, reason=row.release_reason, time=when)
    return Hold(
        hold_id=row.hold_id,
        selector=Selector(
            task_id=row.task_id,
            agent=row.agent,
            actor=row.actor,
            type=row.type,
            begin_time=row.begin_time,
            end_time=row.end_time,
        ),
        reason=row.reason,
        place_time=row.place_time,
        release=release,
    )
