"""What has to be done in time: attempts that run too long, waits that ended, rows kept long enough."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.records import LockedTask
from orchestrator_svc.store.queue_state import FULL, TOKENS
from orchestrator_svc.store.rows import LOCKED_COLUMNS, to_locked
from orchestrator_svc.store.write import write_changes
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database

# The time of the statement: an index is not looked up by a clock that moves on from row to row.
OVERDUE = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task"  # noqa: S608 - a list of our own
    " WHERE task_id IN (SELECT task_id FROM task WHERE due_time < statement_timestamp() LIMIT :limit)"
    " AND due_time < clock_timestamp() ORDER BY task_id FOR UPDATE SKIP LOCKED"
)
_OF_QUEUE = (
    "task.state = 'SUBMITTED' AND task.pool = able.pool AND task.tenant = able.tenant"
    " AND task.queue = able.name"
)
# Walks from queue to queue along the index instead of over every waiting task. Queues that can give nothing
# now do not count; of tasks with keys one stands for all, since a nudge too many does no harm.
_RUNNABLE = sa.text(
    f"""
    WITH RECURSIVE waiting AS (
        (SELECT pool, tenant, queue AS name FROM task WHERE state = 'SUBMITTED'
            ORDER BY pool, tenant, queue LIMIT 1)
        UNION ALL
        SELECT next.* FROM waiting, LATERAL (SELECT pool, tenant, queue FROM task WHERE state = 'SUBMITTED'
            AND (task.pool, task.tenant, task.queue) > (waiting.pool, waiting.tenant, waiting.name)
            ORDER BY pool, tenant, queue LIMIT 1) AS next
    ), able AS (
        SELECT waiting.*, greatest(0, (1 - {TOKENS}) * queue.rate_seconds / queue.rate_count) AS seconds
        FROM waiting LEFT JOIN queue USING (tenant, name)
        WHERE queue.name IS NULL OR NOT (queue.paused OR {FULL})
    ), ready AS (
        SELECT able.pool, able.seconds, (SELECT count(*) FROM (
            SELECT FROM generate_series(9, 0, -1) AS level (priority), LATERAL (SELECT FROM task
                WHERE {_OF_QUEUE} AND priority = level.priority AND fairness_key = '' AND concurrency_key = ''
                AND run_after <= statement_timestamp() LIMIT :limit) AS due LIMIT :limit) AS plain)
            + (SELECT count(*) FROM (SELECT FROM generate_series(9, 0, -1) AS level (priority),
                LATERAL (SELECT FROM task WHERE {_OF_QUEUE} AND priority = level.priority
                AND fairness_key > '' LIMIT 1) AS keyed LIMIT 1) AS keyed) AS n
        FROM able
    )
    SELECT pool, coalesce(sum(n) FILTER (WHERE coalesce(seconds, 0) = 0), 0)::integer AS n,
        least(min(seconds) FILTER (WHERE seconds > 0 AND n > 0), (SELECT extract(epoch
            FROM min(run_after) - clock_timestamp())::float8 FROM task WHERE task.pool = ready.pool
            AND wait_reason IN ('SCHEDULED', 'RETRY_BACKOFF') AND run_after > statement_timestamp()
        )) AS next_seconds
    FROM ready GROUP BY pool
    """  # noqa: S608 - parts of our own
)
_COMPACT = sa.text("SELECT scanned FROM compact_events(:after, :limit, :hours)")
_FORGET = (
    ("idempotency", "create_time"),
    ("claim", "create_time"),
    ("worker_session", "end_time"),
)


class UpkeepStore:
    """Over all tenants: the service's own housekeeping."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the methods that take a connection."""
        return self._database.transaction()

    async def now(self) -> datetime:
        """The database's clock."""
        async with self._database.autocommit() as connection:
            found: datetime = (await connection.execute(sa.text("SELECT clock_timestamp()"))).scalar_one()
        return found

    async def lock_overdue(self, connection: AsyncConnection, limit: int) -> list[LockedTask]:
        """Tasks on which a clock has run out, locked; those that others hold are passed over."""
        return [to_locked(row) for row in (await connection.execute(OVERDUE, {"limit": limit})).all()]

    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
        """Write what became of the tasks; the last statement of the transaction."""
        await write_changes(connection, accepted)

    @undisturbed
    async def runnable(self, limit: int) -> dict[str, tuple[int, float | None]]:
        """By pool: how many tasks could run now, up to `limit`, and seconds until the next one may."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_RUNNABLE, {"limit": limit})).all()
        return {row.pool: (row.n, row.next_seconds) for row in rows}

    @undisturbed
    async def forget(self, *, hours: int, limit: int) -> int:
        """Delete up to `limit` rows of each kind that repeats are known by, once they are old; how many."""
        deleted = 0
        async with self._database.autocommit() as connection:
            for table, since in _FORGET:
                statement = sa.text(
                    f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table}"  # noqa: S608
                    f" WHERE {since} < now() - make_interval(hours => :hours) LIMIT :limit))"
                )
                result = await connection.execute(statement, {"hours": hours, "limit": limit})
                deleted += result.rowcount
        return deleted

    @undisturbed
    async def compact(self, *, after: int, hours: int, limit: int) -> int | None:
        """Remove old events of ended tasks from the next `limit` positions; up to where that came.

        None when nothing old comes after. What the audit log still has to hear of stays.
        """
        parameters = {"after": after, "hours": hours, "limit": limit}
        async with self._database.transaction() as connection:
            scanned: int | None = (await connection.execute(_COMPACT, parameters)).scalar_one()
        return scanned
