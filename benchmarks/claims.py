"""What a claim costs while a million tasks wait: in a queue of its own for each way of choosing."""

import statistics
import time
import uuid
from dataclasses import asdict, dataclass

import psycopg

from benchmarks.postgres import migrated, running_postgres
from benchmarks.report import Row
from orchestrator_svc.claims import Claims
from orchestrator_svc.records import ClaimRequest
from orchestrator_svc.store import ClaimStore
from svc_kit.database import Database

TASKS = 1_000_000
KEYS = 100
MANY_KEYS = 20_000
_TENANT, _POOL = "default", "default"
_ROUNDS = 200
_FLOOD = 100_000
_FILL = """
    INSERT INTO task (task_id, tenant, pool, agent, agent_version, agent_digest, isolation, retry,
        start_to_close, task_type, labels, submitters, traceparent, input, state, wait_reason, run_after,
        attempt, failures, crashes, revision, step_count, create_time, queue, priority, fairness_key,
        concurrency_key)
    SELECT (lpad(to_hex(hashtext(%(queue)s) & 2147483647), 8, '0') || '-0000-7000-8000-'
            || lpad(to_hex(n), 12, '0'))::uuid, 'default', 'default', 'bench', '1.0.0', 'sha256:0', 'PLAN',
        '{"max_failures": 3, "initial": 1, "maximum": 60, "coefficient": 2, "non_retryable": []}', 600, '',
        '{}', '[{"tenant": "default", "subject": "bench", "roles": []}]', '', '{}', 'SUBMITTED', 'QUEUED',
        now() - make_interval(secs => (%(tasks)s - n) * 0.001), 0, 0, 0, 1, 0, now(), %(queue)s, n %% 10,
        CASE WHEN %(one)s THEN 'all' WHEN %(keys)s > 0 THEN 'key-' || n %% greatest(%(keys)s, 1) ELSE '' END,
        CASE WHEN n <= %(flood)s THEN 'flood'
            WHEN %(limited)s THEN 'key-' || n %% greatest(%(keys)s, 1) ELSE '' END
    FROM generate_series(1, %(tasks)s) AS n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits: so many tasks, the oldest first, over every priority and so many keys.

    `limited` makes the keys concurrency keys too, of which one task may run at a time; with `one` they are
    that alone, and the fairness key is the same for all. The oldest `flood` tasks are all of one key more.
    """

    tasks: int
    keys: int = 0
    limited: bool = False
    one: bool = False
    flood: int = 0


async def fill(url: str, queue: str, backlog: Backlog) -> None:
    """Have this wait in a new queue."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO queue (tenant, name, pool, keyed) VALUES ('default', %s, 'default', %s)",
            (queue, backlog.keys > 0),
        )
        await connection.execute(_FILL, {"queue": queue, **asdict(backlog)})
        await connection.execute("VACUUM ANALYZE task")


_BACKLOGS = {
    "without limits": Backlog(tasks=1_000),
    "without limits, long": Backlog(tasks=TASKS),
    "turns by key": Backlog(tasks=TASKS, keys=KEYS),
    "one running a key": Backlog(tasks=TASKS, keys=KEYS, limited=True),
    "one running a key, turns apart": Backlog(tasks=TASKS, keys=MANY_KEYS, limited=True, one=True),
    "the same behind a flood of one key": Backlog(
        tasks=TASKS, keys=MANY_KEYS, limited=True, one=True, flood=_FLOOD
    ),
}


class _Nobody:
    """Is told of commits, and tells nobody."""

    def committed(self, *, runnable: object) -> None:
        """Nothing waits to hear of it."""

    def directed(self, session_id: object) -> None:
        """No attempt is told anything."""

    def family(self) -> None:
        """No task has children."""


async def measure() -> list[Row]:
    """The median of claims one after the other, alone in the pool, for each of these queues."""
    async with running_postgres() as url:
        return [await _measured(url, what, backlog) for what, backlog in _BACKLOGS.items()]


async def _measured(admin_url: str, what: str, backlog: Backlog) -> Row:
    made = await migrated(admin_url, "orchestrator")
    await fill(made.owner_url, "bench", backlog)
    async with await psycopg.AsyncConnection.connect(admin_url, autocommit=True) as connection:
        # What the fill has left to write must not be written while claims are timed.
        await connection.execute("CHECKPOINT")
    session_id = uuid.uuid4()
    async with await psycopg.AsyncConnection.connect(made.owner_url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO worker_session (session_id, subject, slot, incarnation, pools, capacity, start_time,"
            " lease_until) VALUES (%s, 'bench', 'bench', 1, '[\"default\"]', 10000, now(),"
            " now() + interval '1 hour')",
            (session_id,),
        )
    database = Database(made.service_url)
    claims = Claims(store=ClaimStore(database), announcer=_Nobody())
    seconds = []
    try:
        for _ in range(min(_ROUNDS, backlog.keys - 1) if backlog.limited else _ROUNDS):
            request = ClaimRequest(
                claim_id=uuid.uuid4(),
                session_id=session_id,
                subject="bench",
                pool=_POOL,
                tenants=frozenset({_TENANT}),
            )
            start = time.perf_counter()
            claimed = await claims.claim(request)
            seconds.append(time.perf_counter() - start)
            if claimed is None:
                raise RuntimeError("a claim found nothing although tasks wait")
    finally:
        await claims.close()
        await database.close()
    slow = statistics.quantiles(seconds, n=20)[-1] * 1e3
    return Row(
        what=f"claim, {what}, {backlog.tasks:,} waiting",
        load="idle",
        value=statistics.median(seconds) * 1e3,
        unit="ms",
        note=f"p95 {slow:.2f} ms{f', {backlog.keys:,} keys' if backlog.keys else ''}",
    )
