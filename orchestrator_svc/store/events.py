"""Reading events: by task, by position, and the list of tasks as it was at a position."""

import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from orchestrator_svc import tables
from orchestrator_svc.cursors import NO_EVENT, Mark, event_digest
from orchestrator_svc.records import History, LogPlace, Occurrence, Place, StoredEvent, Task, TaskKey, Window
from orchestrator_svc.store.rows import TASK_COLUMNS, AnyRow, to_event, to_occurrence, to_task
from orchestrator_svc.store.tasks import page_query
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database
from svc_kit.filters import Condition

# What state a task was in before an event is what the event before it says.
_BEFORE = (
    "LEFT JOIN task_event AS before"
    " ON before.task_id = task_event.task_id AND before.revision = task_event.revision - 1"
)
_TAIL = sa.text(
    f"SELECT task_event.*, before.state AS was FROM task_event {_BEFORE}"  # noqa: S608 - a text of our own
    " WHERE task_event.position >= :start ORDER BY task_event.position LIMIT :limit"
)
# The edge is read by the statement that reads the events, so that it tells whether some are missing.
_WINDOW = sa.text(
    "SELECT event_edge.position AS edge, event.* FROM event_edge LEFT JOIN LATERAL ("  # noqa: S608 - as above
    f"SELECT task_event.*, before.state AS was FROM task_event {_BEFORE}"
    " WHERE task_event.position > :after AND task_event.position <= :through"
    ") AS event ON true ORDER BY event.position"
)
_HISTORIES = sa.text(
    """
    SELECT asked.ordinal, event.*
    FROM unnest(CAST(:tenants AS text[]), CAST(:task_ids AS uuid[]), CAST(:afters AS bigint[]))
        WITH ORDINALITY AS asked (tenant, task_id, after, ordinal),
    LATERAL (SELECT * FROM task_event WHERE task_event.task_id = asked.task_id
        AND task_event.tenant = asked.tenant AND revision > asked.after ORDER BY revision LIMIT :limit
    ) AS event
    ORDER BY asked.ordinal, event.revision
    """
)
_FIND = sa.text(
    f"SELECT {TASK_COLUMNS} FROM task JOIN unnest(CAST(:tenants AS text[]),"  # noqa: S608 - a list of our own
    " CAST(:task_ids AS uuid[])) AS asked (tenant, task_id)"
    " ON task.task_id = asked.task_id AND task.tenant = asked.tenant"
)
_TASKS = sa.text(
    f"SELECT {TASK_COLUMNS} FROM task WHERE task_id = ANY(CAST(:task_ids AS uuid[]))"  # noqa: S608
)
_PLACE = sa.text(
    "SELECT log_head.log_id, log_head.position AS head, event_edge.position AS edge,"
    " event.task_id, event.revision FROM log_head CROSS JOIN event_edge"
    " LEFT JOIN task_event AS event"
    " ON event.position = coalesce(CAST(:position AS bigint), log_head.position)"
    " WHERE log_head.id = 1"
)


class EventStore:
    """What has happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
    async def head(self) -> Mark:
        """The end of the log as committed."""
        place = await self._place(None)
        return Mark(log_id=place.log_id, position=place.head, event=place.event or NO_EVENT)

    @undisturbed
    async def place(self, position: int) -> LogPlace:
        """What stands at a position, and how far the log goes."""
        return await self._place(position)

    async def _place(self, position: int | None) -> LogPlace:
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_PLACE, {"position": position})).one()
        return LogPlace(log_id=row.log_id, head=row.head, edge=row.edge, event=_digest(row))

    @undisturbed
    async def tail(self, *, start: int, limit: int) -> list[Occurrence]:
        """What stands at a position and after it, of every tenant, in commit order: for the hub alone."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_TAIL, {"start": start, "limit": limit})).all()
        return [to_occurrence(row) for row in rows]

    @undisturbed
    async def window(self, *, after: int, through: int) -> Window:
        """What stands in a part of the log, of every tenant, in commit order."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_WINDOW, {"after": after, "through": through})).all()
        found = tuple(to_occurrence(row) for row in rows if row.task_id is not None)
        return Window(edge=rows[0].edge, occurrences=found)

    @undisturbed
    async def tasks(self, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Task]:
        """Tasks by id, of every tenant: for the hub and for what it could not hold."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_TASKS, {"task_ids": list(task_ids)})).all()
        return {row.task_id: to_task(row) for row in rows}

    @undisturbed
    async def find(self, keys: Sequence[TaskKey]) -> Mapping[TaskKey, Task]:
        """Those tasks that there are."""
        parameters = {"tenants": [tenant for tenant, _ in keys], "task_ids": [each for _, each in keys]}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_FIND, parameters)).all()
        return {(row.tenant, row.task_id): to_task(row) for row in rows}

    @undisturbed
    async def histories(self, asked: Sequence[History], *, limit: int) -> dict[History, list[StoredEvent]]:
        """Events of single tasks after a revision, in order; at most so many of each."""
        parameters = {
            "tenants": [each.tenant for each in asked],
            "task_ids": [each.task_id for each in asked],
            "afters": [each.after for each in asked],
            "limit": limit,
        }
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_HISTORIES, parameters)).all()
        found: dict[History, list[StoredEvent]] = {each: [] for each in asked}
        for row in rows:
            found[asked[row.ordinal - 1]].append(to_event(row))
        return found

    @undisturbed
    async def page_at(
        self, tenant: str, conditions: Sequence[Condition], *, after: Place | None, limit: int
    ) -> tuple[Mark, list[Task]]:
        """Tasks, newest first, after a place; and the end of the log at which the list looks so."""
        page = page_query(tenant, conditions, after=after, limit=limit).subquery("page")
        head, event = tables.log_head, tables.task_event
        query = (
            sa.select(
                head.c.log_id,
                head.c.position.label("head"),
                event.c.task_id.label("head_task_id"),
                event.c.revision.label("head_revision"),
                page,
            )
            .select_from(
                head.outerjoin(event, event.c.position == head.c.position).outerjoin(page, sa.true())
            )
            .order_by(page.c.create_time.desc(), page.c.task_id.desc())
        )
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(query)).all()
        first = rows[0]
        known = first.head_task_id is not None
        mark = Mark(
            log_id=first.log_id,
            position=first.head,
            event=event_digest(first.head_task_id, first.head_revision) if known else NO_EVENT,
        )
        return mark, [to_task(row) for row in rows if row.task_id is not None]


def _digest(row: AnyRow) -> bytes | None:
    return event_digest(row.task_id, row.revision) if row.task_id is not None else None
