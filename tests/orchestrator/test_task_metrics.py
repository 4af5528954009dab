"""How tasks went over time: exact, bounded, and read along indexes."""

import asyncio
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from statistics import quantiles
from typing import Any

import grpc
import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock_suite.databases import ServiceDatabase
from orchestrator_svc import task_metrics
from orchestrator_svc.store.task_metrics import ENDED, SUBMITTED, TaskMetricsStore, parameters
from orchestrator_svc.task_metrics import Group, MetricsQuery, TaskMetrics
from orchestrator_svc.task_metrics_messages import metrics_query
from svc_kit.database import Database
from svc_kit.errors import InvalidArgument, ResourceExhausted
from svc_kit.identity import Role
from tests.command_line import document, interlock
from tests.orchestrator.peers import AGENT, TENANT
from tests.orchestrator.test_claim_plans import explained, nodes
from tests.orchestrator.test_queue_claims import make_queue
from tests.orchestrator.world import World, refused

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_FILL = """
    INSERT INTO task (task_id, tenant, pool, agent, agent_version, agent_digest, isolation, retry,
        start_to_close, task_type, labels, submitters, traceparent, input, state, run_after, attempt,
        failures, crashes, revision, step_count, create_time, start_time, end_time, queue, priority,
        dead_lettered, usage)
    SELECT gen_random_uuid(), 'default', 'default', 'agent-' || n %% 3, '1.0.0', 'sha256:0', 'PLAN',
        '{"max_failures": 3, "initial": 1, "maximum": 60, "coefficient": 2, "non_retryable": []}', 600, '',
        '{}', '[{"tenant": "default", "subject": "ada", "roles": []}]', '', '{}',
        (ARRAY['COMPLETED', 'COMPLETED', 'FAILED', 'CANCELED'])[n %% 4 + 1],
        %(now)s, 1 + n %% 2, n %% 2, 0, 1, 0, %(now)s - make_interval(secs => n),
        CASE WHEN n %% 4 < 3 THEN %(now)s - make_interval(secs => n - 1) END,
        %(now)s - make_interval(secs => n - 1 - n %% 7), 'queue-' || n %% 2, 5, n %% 4 = 2,
        CASE WHEN n %% 5 = 0 THEN '{"model_calls": 1, "input_tokens": 10, "output_tokens": 2,'
            ' "cost_micros": 3}'::jsonb END
    FROM generate_series(1, %(tasks)s) AS n
"""


async def fill(database: ServiceDatabase, tasks: int) -> None:
    """So many tasks that have ended, one a second back from NOW."""
    async with await psycopg.AsyncConnection.connect(database.owner_url, autocommit=True) as connection:
        await connection.execute(_FILL, {"now": NOW, "tasks": tasks})
        await connection.execute("VACUUM ANALYZE task")


def query(seconds: float, *, every: float, **more: Any) -> MetricsQuery:
    end = NOW + timedelta(seconds=10)
    return MetricsQuery(start=end - timedelta(seconds=seconds), end=end, seconds=every, **more)


async def test_every_task_is_counted_in_the_interval_in_which_it_came_and_in_which_it_ended(
    database: ServiceDatabase,
) -> None:
    await fill(database, 600)
    opened = Database(database.service_url)
    try:
        metrics = TaskMetrics(TaskMetricsStore(opened))
        points = await metrics.query("default", query(1000, every=100, group=Group.AGENT))
        assert await metrics.query("another", query(1000, every=100)) == []
        (alone,) = await metrics.query("default", query(1000, every=1000, agent="agent-1", queue="queue-0"))
    finally:
        await opened.close()
    # The same, counted by hand.
    begin = NOW + timedelta(seconds=10 - 1000)
    came: Counter[tuple[str, int]] = Counter()
    ended: Counter[tuple[str, int, str]] = Counter()
    runs: dict[tuple[str, int], list[float]] = defaultdict(list)
    tokens: Counter[tuple[str, int]] = Counter()
    for n in range(1, 601):
        agent, took = f"agent-{n % 3}", -(n % 7)
        came[agent, int((NOW - timedelta(seconds=n) - begin).total_seconds() // 100)] += 1
        end = NOW - timedelta(seconds=n - 1 - n % 7)
        place = (agent, int((end - begin).total_seconds() // 100))
        ended[*place, ("completed", "completed", "failed", "canceled")[n % 4]] += 1
        if n % 4 < 3:
            runs[place].append(-took)
        if n % 5 == 0:
            tokens[place] += 10
    for point in points:
        place = (point.key, int((point.time - begin).total_seconds() // 100))
        assert point.submitted == came.pop(place, 0)
        found = point.ended
        for state in ("completed", "failed", "canceled"):
            assert (getattr(found, state) if found else 0) == ended.pop((*place, state), 0)
        if found is not None and len(runs[place]) > 1:
            assert found.run is not None
            expected = quantiles(runs[place], n=100, method="inclusive")
            assert found.run.p50 == pytest.approx(expected[49])
            assert found.run.p95 == pytest.approx(expected[94])
        assert (found.usage.input_tokens if found and found.usage else 0) == tokens[place]
    assert not came and not ended
    assert alone.submitted == len([n for n in range(1, 601) if n % 3 == 1 and n % 2 == 0])
    assert alone.ended is not None and alone.ended.dead_lettered == alone.ended.failed > 0


@pytest.mark.parametrize("statement", ["ended", "submitted"])
async def test_a_window_costs_the_same_however_many_tasks_are_older(
    database: ServiceDatabase, statement: str
) -> None:
    opened = Database(database.owner_url)
    asked = parameters("default", query(500, every=100), most=1000)
    try:
        touched = []
        for tasks in (1_000, 9_000):
            async with opened.transaction() as connection:
                await connection.execute(sa.text("DELETE FROM task"))
            await fill(database, tasks)
            of = ENDED if statement == "ended" else SUBMITTED
            plan = await explained(opened, of[Group.NOTHING], asked)
            scanned = [node["Node Type"] for node in nodes(plan) if node.get("Relation Name") == "task"]
            assert scanned and "Seq Scan" not in scanned, scanned
            touched.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        assert touched[1] < 2 * touched[0] + 100, touched
    finally:
        await opened.close()


async def test_more_than_one_answer_holds_is_refused_with_what_to_ask_for_instead(
    database: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database, 300)
    opened = Database(database.service_url)
    try:
        metrics = TaskMetrics(TaskMetricsStore(opened))
        monkeypatch.setattr(task_metrics, "MOST_TASKS", 299)
        with pytest.raises(ResourceExhausted, match="299 tasks"):
            await metrics.query("default", query(1000, every=1000))
        monkeypatch.setattr(task_metrics, "MOST_TASKS", 300)
        assert await metrics.query("default", query(1000, every=1000))
        monkeypatch.setattr(task_metrics, "MOST_POINTS", 3)
        with pytest.raises(ResourceExhausted, match="3 points"):
            await metrics.query("default", query(1000, every=50))
    finally:
        await opened.close()


async def test_tasks_of_a_suite_show_in_its_metrics_and_on_the_command_line(world: World) -> None:
    await make_queue(world, "nightly")
    done, canceled = await world.submit(), await world.submit(queue="nightly")
    await world.people().CancelTask(messages.CancelTaskRequest(task_id=canceled.task_id))
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert claimed.task_id == done.task_id
        await worker.complete(claimed)
    asked = messages.QueryTaskMetricsRequest(group_by=messages.TASK_METRICS_GROUP_QUEUE)
    answer = await world.people(Role.VIEWER).QueryTaskMetrics(asked)
    assert answer.interval.ToSeconds() == 3600
    by_queue = {series.key: series.points for series in answer.series}
    (default,), (nightly,) = by_queue["default"], by_queue["nightly"]
    assert (default.submitted, default.completed, default.canceled, default.attempts) == (1, 1, 0, 1)
    assert 0 < default.wait.p50.ToNanoseconds() <= default.wait.p99.ToNanoseconds()
    assert (nightly.submitted, nightly.canceled, nightly.HasField("run")) == (1, 1, False)
    settings = {
        "INTERLOCK_TOKEN": world.issuer.mint("op", TENANT, [Role.VIEWER], 600),
        "INTERLOCK_ORCHESTRATOR_ADDRESS": world.addresses.public,
    }
    ran = await asyncio.to_thread(
        interlock, "metrics", "--agent", AGENT, "--every", "5m", "-o", "json", **settings
    )
    points = [point for series in document(ran)["series"] for point in series["points"]]
    assert sum(int(point.get("submitted", 0)) for point in points) == 2
    shown = await asyncio.to_thread(interlock, "metrics", "--by", "queue", **settings)
    assert "nightly" in shown.stdout and "100.0%" in shown.stdout
    nothing = await asyncio.to_thread(interlock, "metrics", "--agent", "nobody", **settings)
    assert "no task" in nothing.stdout


async def test_everything_wrong_with_a_query_is_said_at_once(world: World) -> None:
    asked = messages.QueryTaskMetricsRequest(agent="x" * 64, queue="No Queue", group_by=9)  # type: ignore[arg-type]
    asked.start_time.FromSeconds(2_000_000_000)
    asked.end_time.FromSeconds(1_000_000_000)
    asked.interval.FromMilliseconds(10)
    error = await refused(world.people().QueryTaskMetrics(asked))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert [violation.field for violation in error.violations] == [
        "start_time",
        "interval",
        "agent",
        "queue",
        "group_by",
    ]


@given(
    start=st.none() | st.integers(-(2**62), 2**62),
    end=st.none() | st.integers(-(2**62), 2**62),
    interval=st.none() | st.floats(0, 1e9),
)
@example(start=None, end=-62135596800, interval=None)  # the first second that a time can have
def test_whatever_is_asked_is_refused_or_has_a_bounded_number_of_intervals(
    start: int | None, end: int | None, interval: float | None
) -> None:
    asked = messages.QueryTaskMetricsRequest()
    if start is not None:
        asked.start_time.seconds = start
    if end is not None:
        asked.end_time.seconds = end
    if interval is not None:
        asked.interval.FromNanoseconds(round(interval * 1e9))
    try:
        found = metrics_query(asked, now=NOW)
    except InvalidArgument:
        return
    assert 1 <= found.intervals <= task_metrics.MOST_INTERVALS + 1
    assert found.start < found.end <= found.start + task_metrics.LONGEST
