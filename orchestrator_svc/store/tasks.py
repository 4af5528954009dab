"""Reading tasks and steps for people."""

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator_svc import tables
from orchestrator_svc.filtering import COMPARE
from orchestrator_svc.lifecycle import PARKED
from orchestrator_svc.records import Place, Step, Task, TaskDetails
from orchestrator_svc.store.rows import TASK_COLUMNS, to_attempt, to_input, to_step, to_task
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database
from svc_kit.filters import Condition, Operator

_FIND = sa.text(f"SELECT {TASK_COLUMNS} FROM task WHERE tenant = :tenant AND task_id = :task_id")  # noqa: S608
_DETAILS = sa.text(
    f"SELECT {TASK_COLUMNS}, task.input, task.result, task.result_blob FROM task"  # noqa: S608 - a list of our own
    " WHERE tenant = :tenant AND task_id = :task_id"
)
_ATTEMPTS = sa.text("SELECT * FROM attempt WHERE tenant = :tenant AND task_id = :task_id ORDER BY attempt")
_OPEN_INPUTS = sa.text(
    "SELECT * FROM task_input WHERE tenant = :tenant AND task_id = :task_id AND kind IS NOT NULL"
    " AND answer IS NULL ORDER BY request_time, input_id"
)
_CHILDREN = sa.text(
    "SELECT count(*) AS children, count(*) FILTER (WHERE end_time IS NULL) AS open FROM task"
    " WHERE tenant = :tenant AND parent_task_id = :task_id"
)
_STEP = sa.text(
    "SELECT * FROM task_step WHERE tenant = :tenant AND task_id = :task_id AND step_key = :step_key"
)
# The same columns as a list of expressions.
_LISTED: Sequence[sa.ColumnElement[Any]] = [
    tables.task.c[name.strip().removeprefix("task.")] for name in TASK_COLUMNS.split(",")
]


class TaskStore:
    """Tasks of one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
    async def find(self, tenant: str, task_id: uuid.UUID) -> Task | None:
        """One task."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_FIND, {"tenant": tenant, "task_id": task_id})).one_or_none()
        return to_task(row) if row is not None else None

    @undisturbed
    async def details(self, tenant: str, task_id: uuid.UUID) -> TaskDetails | None:
        """One task with input, result and attempts."""
        keys = {"tenant": tenant, "task_id": task_id}
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_DETAILS, keys)).one_or_none()
            if row is None:
                return None
            attempts = (await connection.execute(_ATTEMPTS, keys)).all()
            children = (await connection.execute(_CHILDREN, keys)).one()
            waiting = (await connection.execute(_OPEN_INPUTS, keys)).all() if row.state in PARKED else ()
        return TaskDetails(
            task=to_task(row),
            input_json=row.input,
            result_json=row.result,
            attempts=tuple(to_attempt(each) for each in attempts),
            child_count=children.children,
            open_child_count=children.open,
            open_inputs=tuple(to_input(each) for each in waiting),
            result_blob=row.result_blob,
        )

    @undisturbed
    async def page(
        self,
        tenant: str,
        conditions: Sequence[Condition],
        *,
        after: Place | None,
        limit: int,
    ) -> list[Task]:
        """Tasks, newest first, after a place."""
        async with self._database.autocommit() as connection:
            found = await connection.execute(page_query(tenant, conditions, after=after, limit=limit))
            return [to_task(row) for row in found.all()]

    @undisturbed
    async def count(self, tenant: str, conditions: Sequence[Condition], *, limit: int) -> int:
        """How many tasks; counts no further than `limit`."""
        found = (
            sa.select(sa.literal(1))
            .where(tables.task.c.tenant == tenant, *meets(conditions))
            .limit(limit)
            .subquery()
        )
        async with self._database.autocommit() as connection:
            counted: int = (
                await connection.execute(sa.select(sa.func.count()).select_from(found))
            ).scalar_one()
        return counted

    @undisturbed
    async def steps(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> list[Step]:
        """Steps of one task in the order in which they began, after an ordinal."""
        step = tables.task_step.c
        query = (
            sa.select(tables.task_step)
            .where(step.tenant == tenant, step.task_id == task_id, step.ordinal > after)
            .order_by(step.ordinal)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            return [to_step(row) for row in (await connection.execute(query)).all()]

    @undisturbed
    async def step(self, tenant: str, task_id: uuid.UUID, step_key: str) -> Step | None:
        """One step with its input and output."""
        keys = {"tenant": tenant, "task_id": task_id, "step_key": step_key}
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_STEP, keys)).one_or_none()
        return to_step(row) if row is not None else None


def listed() -> Sequence[sa.ColumnElement[Any]]:
    """What `to_task` reads, for composed statements."""
    return _LISTED


def meets(conditions: Sequence[Condition]) -> Sequence[sa.ColumnElement[bool]]:
    """What a task must be to meet a filter."""
    return [_met(each) for each in conditions]


def page_query(
    tenant: str, conditions: Sequence[Condition], *, after: Place | None, limit: int
) -> sa.Select[*tuple[object, ...]]:
    """The statement of `page`."""
    task = tables.task.c
    query = (
        sa.select(*_LISTED)
        .where(task.tenant == tenant, *meets(conditions))
        .order_by(task.create_time.desc(), task.task_id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(sa.tuple_(task.create_time, task.task_id) < (after.create_time, after.task_id))
    return query


def _met(condition: Condition) -> sa.ColumnElement[bool]:
    task = tables.task.c
    met: sa.ColumnElement[bool]
    if condition.field != "root_task_id":
        met = COMPARE[condition.operator](task[condition.field], condition.value)
    elif condition.operator is Operator.EQUAL:
        # The root's own row names none: it is its own.
        met = sa.or_(task.root_task_id == condition.value, task.task_id == condition.value)
    else:
        met = sa.func.coalesce(task.root_task_id, task.task_id) != condition.value
    return met
