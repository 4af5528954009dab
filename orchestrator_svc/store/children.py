"""Child tasks: their rows, their counts, who waits for them, and what becomes of them."""

import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import TaskChanges, root_of
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import ChildEnd, LockedTask, NewTask, Siblings
from orchestrator_svc.store.rows import LOCKED_COLUMNS, to_error, to_locked
from orchestrator_svc.store.submissions import store_tasks
from orchestrator_svc.store.write import write_changes
from svc_kit.database import Database

# After all task locks and before the head of the log, in one order.
_HOLD_TREES = sa.text(
    "SELECT pg_advisory_xact_lock(hashtextextended('tree ' || root::text, 0))"
    " FROM (SELECT DISTINCT root FROM unnest(CAST(:roots AS uuid[])) AS root ORDER BY root) AS roots"
)
_SIBLINGS = sa.text(
    "SELECT asked.parent, (SELECT count(*) FROM task WHERE parent_task_id = asked.parent) AS children,"
    " (SELECT count(*) FROM task WHERE root_task_id = asked.root) AS tree"
    " FROM unnest(CAST(:parents AS uuid[]), CAST(:roots AS uuid[])) AS asked (parent, root)"
)
_ENDS = sa.text(
    "SELECT task_id, agent, state, result, error FROM task"
    " JOIN unnest(CAST(:tenants AS text[]), CAST(:task_ids AS uuid[])) AS asked (tenant, task_id)"
    " USING (tenant, task_id) WHERE end_time IS NOT NULL"
)
# A child has what is left of its parent's time, and its parent's place in the queues but for the concurrency
# key: that counts the parent.
_LINK = sa.text(
    """
    UPDATE task SET parent_task_id = c.parent, root_task_id = c.root, depth = c.depth,
        close_policy = c.policy, expires = least(task.expires, parent.expires), pool = parent.pool,
        queue = parent.queue, priority = parent.priority, fairness_key = parent.fairness_key
    FROM unnest(CAST(:ids AS uuid[]), CAST(:parents AS uuid[]), CAST(:roots AS uuid[]),
        CAST(:depths AS int[]), CAST(:policies AS text[])) AS c (task_id, parent, root, depth, policy)
    JOIN task AS parent ON parent.task_id = c.parent
    WHERE task.task_id = c.task_id AND task.tenant = parent.tenant
    """
)
_AWAIT = sa.text(
    "INSERT INTO child_wait (child_id, parent_id, tenant)"
    " SELECT * FROM unnest(CAST(:children AS uuid[]), CAST(:parents AS uuid[]), CAST(:tenants AS text[]))"
    " ON CONFLICT DO NOTHING"
)
_WAITING = (
    "SELECT DISTINCT child_wait.parent_id FROM child_wait JOIN task ON task.task_id = child_wait.child_id"
    " AND task.tenant = child_wait.tenant WHERE task.end_time IS NOT NULL"
)
_LOCK_WAITING = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task"  # noqa: S608 - a list of our own
    f" WHERE task_id IN ({_WAITING} LIMIT :limit) ORDER BY task_id FOR UPDATE"
)
_FORGET = sa.text("DELETE FROM child_wait WHERE parent_id = ANY(CAST(:parents AS uuid[]))")
_LOCK_ORPHANS = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task"  # noqa: S608 - a list of our own
    " WHERE task_id IN (SELECT child.task_id FROM task AS child JOIN task AS parent"
    " ON parent.task_id = child.parent_task_id AND parent.tenant = child.tenant"
    " WHERE child.close_policy = 'CANCEL' AND child.end_time IS NULL AND child.state <> 'CANCELING'"
    " AND (parent.end_time IS NOT NULL OR parent.state = 'CANCELING') LIMIT :limit)"
    " ORDER BY task_id FOR UPDATE"
)


async def siblings(connection: AsyncConnection, parents: Sequence[LockedTask]) -> dict[uuid.UUID, Siblings]:
    """By parent, how many children it and its tree have; nobody else adds to the trees meanwhile."""
    roots = [root_of(parent) for parent in parents]
    await connection.execute(_HOLD_TREES, {"roots": roots})
    asked = {"parents": [parent.task_id for parent in parents], "roots": roots}
    rows = (await connection.execute(_SIBLINGS, asked)).all()
    return {row.parent: Siblings(children=row.children, tree=row.tree) for row in rows}


async def child_ends(connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]]) -> list[ChildEnd]:
    """How those of these (tenant, child task id) ended that have."""
    asked = {"tenants": [tenant for tenant, _ in keys], "task_ids": [task_id for _, task_id in keys]}
    return [
        ChildEnd(
            task_id=row.task_id,
            agent=row.agent,
            state=TaskState(row.state),
            result_json=row.result,
            error=to_error(row.error),
        )
        for row in (await connection.execute(_ENDS, asked)).all()
    ]


async def write_children(connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
    """Store the new child tasks, and who waits for which; their parents are locked."""
    children = [child for changes in accepted for child in changes.children]
    if children:
        await store_tasks(connection, children, admitted=True)
        await connection.execute(_LINK, _links(children))
    waits = [(child, changes.task) for changes in accepted for child in changes.awaited]
    if waits:
        parameters = {
            "children": [child for child, _ in waits],
            "parents": [parent.task_id for _, parent in waits],
            "tenants": [parent.tenant for _, parent in waits],
        }
        await connection.execute(_AWAIT, parameters)


class ChildStore:
    """What becomes of parents whose children have ended, and of children whose parents have."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the methods below."""
        return self._database.transaction()

    async def lock_waiting(self, connection: AsyncConnection, limit: int) -> list[LockedTask]:
        """Tasks with a child among those they wait for that has ended, locked; they wait no more."""
        rows = (await connection.execute(_LOCK_WAITING, {"limit": limit})).all()
        if rows:
            await connection.execute(_FORGET, {"parents": [row.task_id for row in rows]})
        return [to_locked(row) for row in rows]

    async def lock_orphans(self, connection: AsyncConnection, limit: int) -> list[LockedTask]:
        """Children that are to be canceled because their parents have ended or are ending, locked."""
        rows = (await connection.execute(_LOCK_ORPHANS, {"limit": limit})).all()
        return [to_locked(row) for row in rows]

    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
        """Write what the locked tasks became; the last statement of the transaction."""
        await write_changes(connection, accepted)


def _links(children: Sequence[NewTask]) -> dict[str, object]:
    return {
        "ids": [child.task_id for child in children],
        "parents": [child.lineage.parent for child in children],
        "roots": [child.lineage.root for child in children],
        "depths": [child.lineage.depth for child in children],
        "policies": [str(child.lineage.close_policy) for child in children],
    }
