"""Queues as rows, and what can be read of them cheaply."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import AuditKind, TaskChanges
from orchestrator_svc.placement import DEFAULT_QUEUE
from orchestrator_svc.queues import Queue, QueueStats, RateLimit
from orchestrator_svc.records import POOL, LockedTask
from orchestrator_svc.store.admission import MAKE_DEFAULT
from orchestrator_svc.store.rows import LOCKED_COLUMNS, AnyRow, to_locked
from orchestrator_svc.store.write import write_changes
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database
from svc_kit.event_log import advance
from svc_kit.ids import uuid7
from svc_kit.outbox import Message, write_outbox

_MOST = 10_001  # one more than is shown: then it is "at least"
_FIELDS = (
    "description, paused, max_running, max_running_per_key, max_waiting, rate_count, rate_seconds, rate_burst"
)
_COLUMNS = f"tenant, name, pool, {_FIELDS}, version, create_time, update_time"
_VALUES = ", ".join(f":{field}" for field in _FIELDS.split(", "))
_CREATE = sa.text(
    f"INSERT INTO queue (tenant, name, pool, {_FIELDS}, tokens) VALUES (:tenant, :name, :pool, {_VALUES},"  # noqa: S608
    f" coalesce(CAST(:rate_burst AS integer), 0)) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"
)
_FIND = sa.text(f"SELECT {_COLUMNS} FROM queue WHERE tenant = :tenant AND name = :name")  # noqa: S608
_PAGE = sa.text(
    f"SELECT {_COLUMNS} FROM queue WHERE tenant = :tenant AND name > :after"  # noqa: S608 - our own columns
    " ORDER BY name LIMIT :limit"
)
_DEFAULT_IS_STORED = sa.text("SELECT FROM queue WHERE tenant = :tenant AND name = :name")
_LOCK = sa.text(
    f"SELECT {_COLUMNS} FROM queue WHERE tenant = :tenant AND name = :name FOR UPDATE"  # noqa: S608
)
# A new rate begins with a full bucket; one that was there keeps what is in it.
_SAVE = sa.text(
    "UPDATE queue"  # noqa: S608 - our own columns
    " SET description = :description, paused = :paused, max_running = :max_running,"
    " max_running_per_key = :max_running_per_key, max_waiting = :max_waiting, rate_count = :rate_count,"
    " rate_seconds = :rate_seconds, rate_burst = :rate_burst,"
    " tokens = least(CASE WHEN rate_count IS NULL THEN CAST(:rate_burst AS integer) ELSE tokens END,"
    " coalesce(CAST(:rate_burst AS integer), 0)),"
    " tokens_time = CASE WHEN rate_count IS NULL THEN clock_timestamp() ELSE tokens_time END,"
    " version = version + 1, update_time = clock_timestamp()"
    f" WHERE tenant = :tenant AND name = :name RETURNING {_COLUMNS}"
)
_IN_USE = sa.text(
    "SELECT EXISTS (SELECT FROM task WHERE state = 'SUBMITTED' AND pool = :pool AND tenant = :tenant"
    " AND queue = :name) OR EXISTS (SELECT FROM task WHERE tenant = :tenant AND queue = :name"
    " AND session_id IS NOT NULL) OR EXISTS (SELECT FROM task WHERE tenant = :tenant"
    " AND state IN ('PAUSED', 'INPUT_REQUIRED') AND queue = :name)"
)
_DELETE = sa.text("DELETE FROM queue WHERE tenant = :tenant AND name = :name")
_MINE = "task.tenant = :tenant AND task.queue = :name"
_WAITING = f"task.state = 'SUBMITTED' AND task.pool = :pool AND {_MINE}"
_CLASS = f"{_WAITING} AND task.priority = level.priority"
_STATS = sa.text(
    f"""
    SELECT (SELECT count(*) FROM (SELECT FROM task WHERE {_WAITING} LIMIT :most) AS each) AS waiting,
        (SELECT count(*) FROM (SELECT FROM task WHERE {_MINE} AND session_id IS NOT NULL LIMIT :most) AS each)
            AS running,
        (SELECT count(*) FROM (SELECT FROM task WHERE {_MINE}
            AND end_time > statement_timestamp() - interval '1 minute' LIMIT :most) AS each) AS ended,
        (SELECT count(*) FROM worker_session WHERE end_time IS NULL AND NOT draining
            AND serves @> jsonb_build_array(jsonb_build_object('tenant', CAST(:tenant AS text), 'pool',
                CAST(:pool AS text)))) AS workers,
        (SELECT extract(epoch FROM clock_timestamp() - min(since))::float8 FROM (
            SELECT greatest(first.run_after, first.create_time) AS since
            FROM generate_series(9, 0, -1) AS level (priority), LATERAL (
                WITH RECURSIVE walk AS (
                    (SELECT task.fairness_key, task.concurrency_key FROM task WHERE {_CLASS}
                        ORDER BY 1, 2 LIMIT 1)
                    UNION ALL
                    SELECT next.* FROM walk, LATERAL (SELECT task.fairness_key, task.concurrency_key
                        FROM task WHERE {_CLASS} AND (task.fairness_key, task.concurrency_key)
                            > (walk.fairness_key, walk.concurrency_key) ORDER BY 1, 2 LIMIT 1) AS next
                ) SELECT * FROM walk
            ) AS class, LATERAL (SELECT run_after, create_time FROM task WHERE {_CLASS}
                AND task.fairness_key = class.fairness_key AND task.concurrency_key = class.concurrency_key
                AND run_after <= statement_timestamp() ORDER BY run_after, task_id LIMIT 1) AS first
            LIMIT 1000
        ) AS firsts) AS oldest
    """  # noqa: S608 - parts of our own
)
_NOW = sa.text("SELECT clock_timestamp()")
_LOCK_WAITING = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task WHERE task_id IN (SELECT task_id FROM task"  # noqa: S608
    f" WHERE {_WAITING} AND create_time <= :until LIMIT :limit) AND state = 'SUBMITTED'"
    " ORDER BY task_id FOR UPDATE"
)


class QueueStore:
    """Queues of one tenant at a time; the queue `default` is there although it may not be stored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction; lock order: queues, tasks by id, the log."""
        return self._database.transaction()

    async def create(self, connection: AsyncConnection, queue: Queue) -> Queue | None:
        """Store a queue; None when its name is taken."""
        if queue.name == DEFAULT_QUEUE:
            return None
        row = (await connection.execute(_CREATE, _parameters(queue))).one_or_none()
        return _queue(row) if row is not None else None

    @undisturbed
    async def find(self, tenant: str, name: str) -> Queue | None:
        """One queue."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_FIND, {"tenant": tenant, "name": name})).one_or_none()
        if row is None and name == DEFAULT_QUEUE:
            return _default(tenant)
        return _queue(row) if row is not None else None

    @undisturbed
    async def page(self, tenant: str, *, after: str, limit: int) -> list[Queue]:
        """Queues by name, after one."""
        async with self._database.autocommit() as connection:
            asked = {"tenant": tenant, "after": after, "limit": limit}
            found = [_queue(row) for row in (await connection.execute(_PAGE, asked)).all()]
            if after < DEFAULT_QUEUE and all(queue.name != DEFAULT_QUEUE for queue in found):
                stored = await connection.execute(
                    _DEFAULT_IS_STORED, {"tenant": tenant, "name": DEFAULT_QUEUE}
                )
                if stored.one_or_none() is None:
                    found = sorted([*found, _default(tenant)], key=lambda queue: queue.name)
        return found[:limit]

    async def lock(self, connection: AsyncConnection, tenant: str, name: str) -> Queue | None:
        """The queue, locked against claims and new tasks."""
        if name == DEFAULT_QUEUE:
            await connection.execute(MAKE_DEFAULT, {"tenants": [tenant], "name": DEFAULT_QUEUE, "pool": POOL})
        row = (await connection.execute(_LOCK, {"tenant": tenant, "name": name})).one_or_none()
        return _queue(row) if row is not None else None

    async def save(self, connection: AsyncConnection, queue: Queue) -> Queue:
        """Store the changes of a locked queue; the queue with its new version."""
        parameters = _parameters(queue)
        del parameters["pool"]
        return _queue((await connection.execute(_SAVE, parameters)).one())

    async def in_use(self, connection: AsyncConnection, queue: Queue) -> bool:
        """Whether a task of a locked queue has not ended."""
        return bool((await connection.execute(_IN_USE, _names(queue))).scalar_one())

    async def delete(self, connection: AsyncConnection, queue: Queue) -> None:
        """Delete a locked queue."""
        await connection.execute(_DELETE, {"tenant": queue.tenant, "name": queue.name})

    async def tell(self, connection: AsyncConnection, tenant: str, told: Mapping[str, str]) -> None:
        """Tell the audit log; the last statements of the transaction."""
        await tell(connection, tenant, told)

    @undisturbed
    async def stats(self, queue: Queue) -> QueueStats:
        """Counts up to a bound, each along an index."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_STATS, {**_names(queue), "most": _MOST})).one()
        return QueueStats(
            waiting=row.waiting,
            running=row.running,
            oldest_wait=row.oldest,
            ended_last_minute=row.ended,
            workers=row.workers,
        )

    async def now(self) -> datetime:
        """The database's clock."""
        async with self._database.autocommit() as connection:
            found: datetime = (await connection.execute(_NOW)).scalar_one()
        return found

    async def lock_waiting(
        self, connection: AsyncConnection, queue: Queue, *, until: datetime, limit: int
    ) -> list[LockedTask]:
        """Waiting tasks that were there at that time, locked in the order of their ids."""
        parameters = {**_names(queue), "until": until, "limit": limit}
        return [to_locked(row) for row in (await connection.execute(_LOCK_WAITING, parameters)).all()]

    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
        """Write what became of the tasks; the last statement of the transaction."""
        await write_changes(connection, accepted)


async def tell(connection: AsyncConnection, tenant: str, told: Mapping[str, str]) -> None:
    """Leave word for the audit log of what an operator did."""
    now: datetime = (await connection.execute(_NOW)).scalar_one()
    body = {**told, "time": now.isoformat()}
    message = Message(tenant=tenant, event_id=uuid7(), kind=str(AuditKind.OPERATION), body=body)
    await write_outbox(connection, await advance(connection, events=0, outbox=1), [message])


def _default(tenant: str) -> Queue:
    return Queue(tenant=tenant, name=DEFAULT_QUEUE, pool=POOL)


def _queue(row: AnyRow) -> Queue:
    rate = None
    if row.rate_count is not None:
        rate = RateLimit(count=row.rate_count, seconds=row.rate_seconds, burst=row.rate_burst)
    return replace(
        _default(row.tenant),
        name=row.name,
        pool=row.pool,
        description=row.description,
        paused=row.paused,
        max_running=row.max_running,
        max_running_per_key=row.max_running_per_key,
        max_waiting=row.max_waiting,
        rate=rate,
        version=row.version,
        create_time=row.create_time,
        update_time=row.update_time,
    )


def _names(queue: Queue) -> dict[str, Any]:
    return {"tenant": queue.tenant, "name": queue.name, "pool": queue.pool}


def _parameters(queue: Queue) -> dict[str, Any]:
    rate = queue.rate
    return {
        **_names(queue),
        "description": queue.description,
        "paused": queue.paused,
        "max_running": queue.max_running,
        "max_running_per_key": queue.max_running_per_key,
        "max_waiting": queue.max_waiting,
        "rate_count": rate.count if rate else None,
        "rate_seconds": rate.seconds if rate else None,
        "rate_burst": rate.burst if rate else None,
    }
