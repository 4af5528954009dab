"""What holds tasks back, read along indexes and up to a bound."""

import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from orchestrator_svc.explain import MOST, WINDOW_SECONDS, Facts, Hold
from orchestrator_svc.lifecycle import TaskState, WaitReason
from orchestrator_svc.store.queue_state import FULL, TOKENS
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database

_MINE = "task.tenant = mine.tenant AND task.queue = mine.queue"
_READY = (
    f"task.state = 'SUBMITTED' AND task.pool = mine.pool AND {_MINE}"
    " AND task.run_after <= statement_timestamp()"
)
_CLASS = f"task.state = 'SUBMITTED' AND task.pool = mine.pool AND {_MINE} AND task.priority = mine.priority"
# Ahead are: every task of a higher priority; of its own key the older ones; of every other key of its
# priority as many as may have a turn before it.
_FACTS = sa.text(
    f"""
    WITH RECURSIVE mine AS MATERIALIZED (
        SELECT * FROM task WHERE tenant = :tenant AND task_id = :task_id
    ), older AS MATERIALIZED (
        SELECT count(*) AS n FROM mine, LATERAL (SELECT FROM task WHERE {_READY}
            AND task.priority = mine.priority AND task.fairness_key = mine.fairness_key
            AND (task.run_after, task.task_id) < (mine.run_after, mine.task_id) LIMIT :most) AS each
    ), walk AS (
        SELECT (SELECT task.fairness_key FROM task, mine WHERE {_CLASS} ORDER BY 1 LIMIT 1) AS fairness_key
        UNION ALL
        SELECT (SELECT task.fairness_key FROM task, mine WHERE {_CLASS}
            AND task.fairness_key > walk.fairness_key ORDER BY 1 LIMIT 1)
        FROM walk WHERE walk.fairness_key IS NOT NULL
    ), others AS (
        SELECT coalesce(sum(turn.n), 0) AS n FROM mine, (SELECT fairness_key FROM walk
            WHERE fairness_key IS NOT NULL LIMIT 1000) AS class, LATERAL (SELECT count(*) AS n FROM (
                SELECT FROM task WHERE {_READY} AND task.priority = mine.priority
                AND task.fairness_key = class.fairness_key LIMIT (SELECT n FROM older) + 1) AS each) AS turn
        WHERE class.fairness_key <> mine.fairness_key
    ), serving AS (
        SELECT count(*) AS workers, count(*) FILTER (WHERE draining) AS draining,
            coalesce(sum(capacity - (SELECT count(*) FROM task
                WHERE task.session_id = worker_session.session_id)) FILTER (WHERE NOT draining), 0) AS free
        FROM worker_session, mine WHERE worker_session.end_time IS NULL AND serves
            @> jsonb_build_array(jsonb_build_object('tenant', mine.tenant, 'pool', mine.pool))
    )
    SELECT mine.state, mine.wait_reason, mine.run_after, mine.queue, mine.pool, mine.concurrency_key,
        coalesce(queue.paused, false) AS paused, queue.max_running,
        coalesce(queue.max_running_per_key, 1) AS max_running_per_key,
        (SELECT count(*) FROM (SELECT FROM task WHERE {_MINE} AND task.session_id IS NOT NULL
            LIMIT :most) AS each) AS running,
        (SELECT count(*) FROM (SELECT FROM task WHERE {_MINE} AND task.session_id IS NOT NULL
            AND task.concurrency_key = mine.concurrency_key LIMIT :most) AS each) AS running_of_key,
        greatest(0, (1 - {TOKENS}) * queue.rate_seconds / queue.rate_count)::float8 AS token_seconds,
        serving.workers, serving.draining, serving.free::integer AS free,
        (SELECT session_id FROM worker_session WHERE worker_session.session_id = mine.session_id
            AND end_time IS NULL AND lease_until < clock_timestamp()) AS silent_session,
        least(:most, (SELECT n FROM older) + (SELECT n FROM others) + (SELECT count(*) FROM (
            SELECT FROM task WHERE {_READY} AND task.priority > mine.priority LIMIT :most) AS each)
        )::integer AS ahead,
        (SELECT count(*) FROM (SELECT FROM task WHERE {_MINE}
            AND task.end_time > statement_timestamp() - make_interval(secs => :window)
            LIMIT :most) AS each) AS ended, clock_timestamp() AS now
    FROM mine CROSS JOIN serving
    LEFT JOIN queue ON queue.tenant = mine.tenant AND queue.name = mine.queue
    """  # noqa: S608 - parts of our own
)
_HOLDS = sa.text(
    f"""
    SELECT asked.queue, asked.key, queue.paused, {FULL} OR coalesce({TOKENS} < 1, false)
        OR (asked.key <> '' AND queue.max_running_per_key <= (SELECT count(*) FROM (SELECT FROM task
            WHERE task.tenant = queue.tenant AND task.queue = queue.name AND task.concurrency_key = asked.key
            AND task.session_id IS NOT NULL LIMIT queue.max_running_per_key) AS live)) AS limited
    FROM unnest(CAST(:queues AS text[]), CAST(:keys AS text[])) AS asked (queue, key)
    JOIN queue ON queue.tenant = :tenant AND queue.name = asked.queue
    """  # noqa: S608 - parts of our own
)


class ExplainStore:
    """Reads only, of one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
    async def facts(self, tenant: str, task_id: uuid.UUID) -> Facts | None:
        """What is so of a task now, all of one moment."""
        parameters = {"tenant": tenant, "task_id": task_id, "most": MOST + 1, "window": WINDOW_SECONDS}
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_FACTS, parameters)).one_or_none()
        if row is None:
            return None
        return Facts(
            state=TaskState(row.state),
            wait_reason=WaitReason(row.wait_reason) if row.wait_reason else None,
            run_after=row.run_after,
            queue=row.queue,
            pool=row.pool,
            concurrency_key=row.concurrency_key,
            paused=row.paused,
            max_running=row.max_running,
            max_running_per_key=row.max_running_per_key,
            running=row.running,
            running_of_key=row.running_of_key,
            token_seconds=row.token_seconds,
            workers=row.workers,
            draining=row.draining,
            free_slots=row.free,
            silent_session=row.silent_session,
            ahead=row.ahead,
            ended=row.ended,
            now=row.now,
        )

    @undisturbed
    async def holds(self, tenant: str, places: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], Hold]:
        """By queue and concurrency key, whether they start nothing now; without those that have no limits."""
        parameters = {
            "tenant": tenant,
            "queues": [queue for queue, _ in places],
            "keys": [key for _, key in places],
        }
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_HOLDS, parameters)).all()
        return {(row.queue, row.key): Hold(paused=row.paused, limited=row.limited) for row in rows}
