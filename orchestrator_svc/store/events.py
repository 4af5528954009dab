"""Reading events, by task and by position."""

import uuid

import sqlalchemy as sa

from orchestrator_svc.records import StoredEvent
from orchestrator_svc.store.rows import to_event
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database
from svc_kit.event_log import read_head

_TAIL = sa.text("SELECT * FROM task_event WHERE position > :after ORDER BY position LIMIT :limit")
_HISTORY = sa.text(
    "SELECT * FROM task_event WHERE task_id = :task_id AND tenant = :tenant AND revision > :after"
    " ORDER BY revision LIMIT :limit"
)


class EventStore:
    """What has happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
    async def position(self) -> int:
        """The end of the log as committed."""
        async with self._database.autocommit() as connection:
            return (await read_head(connection)).position

    @undisturbed
    async def tail(self, *, after: int, limit: int) -> list[StoredEvent]:
        """What came after a position, of every tenant, in commit order: for the hub alone."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_TAIL, {"after": after, "limit": limit})).all()
        return [to_event(row) for row in rows]

    @undisturbed
    async def history(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> list[StoredEvent]:
        """Events of one task after a revision, in order."""
        parameters = {"tenant": tenant, "task_id": task_id, "after": after, "limit": limit}
        async with self._database.autocommit() as connection:
            return [to_event(row) for row in (await connection.execute(_HISTORY, parameters)).all()]
