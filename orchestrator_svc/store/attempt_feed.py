"""Which attempts are live, of every tenant: for the gateways."""

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator_svc.attempt_feed import AttemptChange, standing
from orchestrator_svc.lifecycle import TaskState
from svc_kit.database import Database
from svc_kit.event_log import read_head

_LIVE = sa.text(
    "SELECT tenant, task_id, attempt, state FROM task"
    " WHERE session_id IS NOT NULL AND task_id > :after ORDER BY task_id LIMIT :limit"
)
_STANDINGS = sa.text(
    "SELECT tenant, task_id, attempt, state FROM task WHERE task_id = ANY(CAST(:task_ids AS uuid[]))"
)
_CHANGES = sa.text(
    "SELECT position, type, tenant, task_id, attempt, state FROM task_event"
    " WHERE position > :after ORDER BY position LIMIT :limit"
)


class AttemptFeedStore:
    """Attempts that are live now, and how attempts came to stand since."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def position(self) -> int:
        """The end of the log as committed."""
        async with self._database.autocommit() as connection:
            return (await read_head(connection)).position

    async def live(self, *, after: uuid.UUID, limit: int) -> list[AttemptChange]:
        """Live attempts by task id, after one."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_LIVE, {"after": after, "limit": limit})).all()
        return [_change(row) for row in rows]

    async def standings(self, task_ids: Sequence[uuid.UUID]) -> list[AttemptChange]:
        """How the last attempts of these tasks stand now."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_STANDINGS, {"task_ids": list(task_ids)})).all()
        return [_change(row) for row in rows]

    async def changes(self, *, after: int, limit: int) -> tuple[list[AttemptChange], int, bool]:
        """How attempts came to stand after a position; the position reached, and whether more is there."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_CHANGES, {"after": after, "limit": limit})).all()
        reached = rows[-1].position if rows else after
        changed = [_change(row) for row in rows if row.type == "STATE_CHANGED" and row.attempt]
        return changed, reached, len(rows) == limit


def _change(row: Any) -> AttemptChange:
    return AttemptChange(
        tenant=row.tenant, task_id=row.task_id, attempt=row.attempt, standing=standing(TaskState(row.state))
    )
