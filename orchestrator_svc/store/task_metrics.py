"""How tasks went over time, counted along indexes."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from orchestrator_svc.records import Usage
from orchestrator_svc.store.rows import AnyRow
from orchestrator_svc.task_metrics import Ended, Group, MetricsQuery, Quantiles, Submitted
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database

_KEYS = {Group.NOTHING: "''", Group.AGENT: "agent", Group.QUEUE: "queue"}
_WANTED = (
    "(CAST(:agent AS text) = '' OR task.agent = :agent)"
    " AND (CAST(:queue AS text) = '' OR task.queue = :queue)"
)
_BIN = "date_bin(make_interval(secs => :seconds), {time}, CAST(:start AS timestamptz))"
_QUANTILES = (
    "percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM {time})::float8)"
    " FILTER (WHERE start_time IS NOT NULL)"
)
_USED = ("model_calls", "input_tokens", "output_tokens", "cost_micros")
_SUMS = ", ".join(f"coalesce(sum((usage->>'{name}')::bigint), 0)::bigint AS {name}" for name in _USED)
# From queue to queue, and within each along the time of the end.
_ENDED = """
    WITH RECURSIVE known AS (
        (SELECT queue FROM task WHERE tenant = :tenant AND end_time IS NOT NULL ORDER BY queue LIMIT 1)
        UNION ALL
        SELECT (SELECT task.queue FROM task WHERE tenant = :tenant AND end_time IS NOT NULL
            AND task.queue > known.queue ORDER BY task.queue LIMIT 1)
        FROM known WHERE known.queue IS NOT NULL
    ), ended AS MATERIALIZED (
        SELECT found.* FROM known, LATERAL (
            SELECT agent, queue, state, dead_lettered, attempt, failures, crashes, create_time, start_time,
                end_time, usage
            FROM task WHERE tenant = :tenant AND task.queue = known.queue AND end_time IS NOT NULL
                AND end_time >= :start AND end_time < :end AND {wanted}
        ) AS found LIMIT :most
    )
    SELECT {key} AS key, {bin} AS time, count(*) AS tasks,
        count(*) FILTER (WHERE state = 'COMPLETED') AS completed,
        count(*) FILTER (WHERE state = 'FAILED') AS failed,
        count(*) FILTER (WHERE state = 'CANCELED') AS canceled,
        count(*) FILTER (WHERE dead_lettered) AS dead_lettered,
        sum(attempt)::bigint AS attempts, sum(failures)::bigint AS failures, sum(crashes)::bigint AS crashes,
        {wait} AS wait, {run} AS run, count(usage) AS used, {sums}
    FROM ended GROUP BY 1, 2
"""
_SUBMITTED = """
    WITH came AS MATERIALIZED (
        SELECT agent, queue, create_time FROM task WHERE tenant = :tenant
            AND create_time >= :start AND create_time < :end AND {wanted}
        ORDER BY create_time DESC, task_id DESC LIMIT :most
    )
    SELECT {key} AS key, {bin} AS time, count(*) AS tasks FROM came GROUP BY 1, 2
"""


def _statement(form: str, key: str, time: str) -> sa.TextClause:
    return sa.text(
        form.format(
            key=key,
            bin=_BIN.format(time=time),
            wanted=_WANTED,
            wait=_QUANTILES.format(time="start_time - create_time"),
            run=_QUANTILES.format(time="end_time - start_time"),
            sums=_SUMS,
        )
    )


ENDED = {group: _statement(_ENDED, key, "end_time") for group, key in _KEYS.items()}
SUBMITTED = {group: _statement(_SUBMITTED, key, "create_time") for group, key in _KEYS.items()}


class TaskMetricsStore:
    """Tasks of one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
    async def submitted(self, tenant: str, query: MetricsQuery, *, most: int) -> list[Submitted] | None:
        """How many tasks came, by key and interval; None where there are more than `most`."""
        rows = await self._rows(SUBMITTED[query.group], tenant, query, most)
        if rows is None:
            return None
        return [Submitted(key=row.key, time=row.time, count=row.tasks) for row in rows]

    @undisturbed
    async def ended(self, tenant: str, query: MetricsQuery, *, most: int) -> list[Ended] | None:
        """How tasks ended, by key and interval; None where there are more than `most`."""
        rows = await self._rows(ENDED[query.group], tenant, query, most)
        return [_ended(row) for row in rows] if rows is not None else None

    async def _rows(
        self, statement: sa.TextClause, tenant: str, query: MetricsQuery, most: int
    ) -> Sequence[AnyRow] | None:
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(statement, parameters(tenant, query, most=most + 1))).all()
        return rows if sum(row.tasks for row in rows) <= most else None


def parameters(tenant: str, query: MetricsQuery, *, most: int) -> dict[str, Any]:
    """Of either statement."""
    return {
        "tenant": tenant,
        "start": query.start,
        "end": query.end,
        "seconds": query.seconds,
        "agent": query.agent,
        "queue": query.queue,
        "most": most,
    }


def _ended(row: AnyRow) -> Ended:
    return Ended(
        key=row.key,
        time=row.time,
        completed=row.completed,
        failed=row.failed,
        canceled=row.canceled,
        dead_lettered=row.dead_lettered,
        attempts=row.attempts,
        failures=row.failures,
        crashes=row.crashes,
        wait=_quantiles(row.wait),
        run=_quantiles(row.run),
        usage=Usage(**{name: getattr(row, name) for name in _USED}) if row.used else None,
    )


def _quantiles(found: Sequence[float] | None) -> Quantiles | None:
    if found is None:
        return None
    p50, p95, p99 = found
    return Quantiles(p50=p50, p95=p95, p99=p99)
