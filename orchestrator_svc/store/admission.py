"""Queues under their locks, while it is decided which new tasks they take."""

import uuid
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.admission import Bounds, Holder, KeyName, QueueName
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.placement import DEFAULT_QUEUE
from orchestrator_svc.records import POOL, LockedTask, NewTask, NotPlaced, Stored
from orchestrator_svc.store.rows import LOCKED_COLUMNS, to_locked
from orchestrator_svc.store.submissions import store_tasks
from orchestrator_svc.store.write import write_changes
from svc_kit.database import Database

# Request ids are taken here, before the log is, as wherever tasks are stored.
_RESERVE = sa.text(
    """
    WITH asked AS (
        SELECT * FROM unnest(CAST(:task_ids AS uuid[]), CAST(:tenants AS text[]), CAST(:subjects AS text[]),
            CAST(:methods AS text[]), CAST(:request_ids AS uuid[]), CAST(:digests AS text[]))
            AS asked (new_id, tenant, subject, method, request_id, digest)
    ), reserved AS (
        INSERT INTO idempotency (tenant, subject, method, request_id, digest, task_id, create_time)
        SELECT tenant, subject, method, request_id, digest, new_id, now() FROM asked
        WHERE request_id IS NOT NULL AND NOT EXISTS (SELECT FROM task WHERE task_id = asked.new_id)
        ORDER BY tenant, subject, method, request_id
        ON CONFLICT DO NOTHING RETURNING task_id
    )
    SELECT new_id FROM asked WHERE EXISTS (SELECT FROM task WHERE task_id = asked.new_id)
        OR (request_id IS NOT NULL AND new_id NOT IN (SELECT task_id FROM reserved))
    """
)
_RELEASE = sa.text(
    "DELETE FROM idempotency USING unnest(CAST(:task_ids AS uuid[]), CAST(:tenants AS text[]),"
    " CAST(:subjects AS text[]), CAST(:methods AS text[]), CAST(:request_ids AS uuid[]))"
    " AS refused (new_id, tenant, subject, method, request_id)"
    " WHERE idempotency.tenant = refused.tenant AND idempotency.subject = refused.subject"
    " AND idempotency.method = refused.method AND idempotency.request_id = refused.request_id"
    " AND idempotency.task_id = refused.new_id"
)
# The queue `default` is there for every tenant; its row is, from the first time that one is needed.
MAKE_DEFAULT = sa.text(
    "INSERT INTO queue (tenant, name, pool) SELECT tenant, :name, :pool"
    " FROM unnest(CAST(:tenants AS text[])) AS asked (tenant) ORDER BY tenant ON CONFLICT DO NOTHING"
)
_LOCK = sa.text(
    "SELECT tenant, name, keyed, max_waiting, max_running_per_key FROM queue"
    " WHERE (tenant, name) IN (SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[])))"
    " ORDER BY tenant, name FOR NO KEY UPDATE"
)
_KEYED = sa.text(
    "UPDATE queue SET keyed = true WHERE NOT keyed"
    " AND (tenant, name) IN (SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[])))"
)
# A statement of its own: it sees what was stored while the lock was waited for.
_WAITING = sa.text(
    "SELECT queue.tenant, queue.name, (SELECT count(*) FROM (SELECT FROM task WHERE state = 'SUBMITTED'"
    " AND task.pool = queue.pool AND task.tenant = queue.tenant AND task.queue = queue.name"
    " LIMIT queue.max_waiting) AS waiting) AS n FROM queue WHERE max_waiting IS NOT NULL"
    " AND (tenant, name) IN (SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:names AS text[])))"
)
_HOLDERS = sa.text(
    "SELECT task.tenant, task.queue, task.concurrency_key, task_id, state FROM task"
    " JOIN unnest(CAST(:tenants AS text[]), CAST(:queues AS text[]), CAST(:keys AS text[]))"
    " AS asked (tenant, queue, key) ON task.tenant = asked.tenant AND task.queue = asked.queue"
    " AND task.concurrency_key = asked.key AND task.concurrency_key <> '' AND task.end_time IS NULL"
    " ORDER BY create_time, task_id"
)
_VICTIMS = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task"  # noqa: S608 - a list of our own
    " WHERE task_id = ANY(CAST(:task_ids AS uuid[])) AND end_time IS NULL ORDER BY task_id FOR UPDATE"
)


class AdmissionStore:
    """On the transaction that the caller holds; lock order: queues, request ids, tasks by id, the log."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the methods below."""
        return self._database.transaction()

    async def reserve(self, connection: AsyncConnection, rows: Sequence[NewTask]) -> set[uuid.UUID]:
        """Take the request ids of these rows; the ids of those that are stored already, or repeat another.

        Whoever stores the same request waits until it is known what became of this one.
        """
        digests = [row.request.digest if row.request else None for row in rows]
        parameters = {**_requests(rows), "digests": digests}
        return {row.new_id for row in (await connection.execute(_RESERVE, parameters)).all()}

    async def release(self, connection: AsyncConnection, rows: Sequence[NewTask]) -> None:
        """Give back the request ids of rows that were refused."""
        await connection.execute(_RELEASE, _requests(rows))

    async def lock_queues(
        self, connection: AsyncConnection, names: Collection[QueueName], *, keyed: Collection[QueueName]
    ) -> dict[QueueName, Bounds]:
        """The queues that exist, locked; those of `keyed` take their tasks by turns from now on."""
        tenants = sorted({tenant for tenant, name in names if name == DEFAULT_QUEUE})
        if tenants:
            made = {"tenants": tenants, "name": DEFAULT_QUEUE, "pool": POOL}
            await connection.execute(MAKE_DEFAULT, made)
        rows = (await connection.execute(_LOCK, _names(names))).all()
        unkeyed = {(row.tenant, row.name) for row in rows if not row.keyed} & set(keyed)
        if unkeyed:
            await connection.execute(_KEYED, _names(unkeyed))
        waiting = {}
        if any(row.max_waiting is not None for row in rows):
            counted = (await connection.execute(_WAITING, _names(names))).all()
            waiting = {(row.tenant, row.name): row.n for row in counted}
        return {
            (row.tenant, row.name): Bounds(
                max_waiting=row.max_waiting,
                max_running_per_key=row.max_running_per_key,
                waiting=waiting.get((row.tenant, row.name), 0),
            )
            for row in rows
        }

    async def holders(
        self, connection: AsyncConnection, keys: Collection[KeyName]
    ) -> dict[KeyName, list[Holder]]:
        """By key, its tasks that have not ended, the oldest first."""
        parameters = {
            "tenants": [tenant for tenant, _, _ in keys],
            "queues": [queue for _, queue, _ in keys],
            "keys": [key for _, _, key in keys],
        }
        found: dict[KeyName, list[Holder]] = {key: [] for key in keys}
        for row in (await connection.execute(_HOLDERS, parameters)).all():
            found[row.tenant, row.queue, row.concurrency_key].append(
                Holder(task_id=row.task_id, state=TaskState(row.state))
            )
        return found

    async def lock(self, connection: AsyncConnection, task_ids: Collection[uuid.UUID]) -> list[LockedTask]:
        """Those of the tasks that have not ended, locked in the order of their ids."""
        rows = (await connection.execute(_VICTIMS, {"task_ids": list(task_ids)})).all()
        return [to_locked(row) for row in rows]

    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
        """Write what became of locked tasks."""
        await write_changes(connection, accepted)

    async def store(
        self, connection: AsyncConnection, rows: Sequence[NewTask]
    ) -> list[Stored | NotPlaced | None]:
        """Store rows that their locked queues take."""
        return await store_tasks(connection, rows, admitted=True)


def _requests(rows: Sequence[NewTask]) -> dict[str, list[Any]]:
    requests = [row.request for row in rows]
    return {
        "task_ids": [row.task_id for row in rows],
        "tenants": [row.tenant for row in rows],
        "subjects": [request.subject if request else None for request in requests],
        "methods": [request.method if request else None for request in requests],
        "request_ids": [request.request_id if request else None for request in requests],
    }


def _names(names: Collection[QueueName]) -> dict[str, list[str]]:
    ordered = sorted(names)
    return {"tenants": [tenant for tenant, _ in ordered], "names": [name for _, name in ordered]}
