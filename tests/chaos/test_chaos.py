"""Two orchestrators and two workers on one database.

Whatever strikes them, nothing is lost, nothing is done twice, everything is told and recorded once; a rolling
restart is not even noticed.
"""

import asyncio
import faulthandler
import itertools
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest

from interlock.client import Client
from interlock.orchestrator.v1 import orchestrator_service_pb2
from svc_kit.advisory import lock_key
from tests.chaos import invariants
from tests.chaos.faults import ORCHESTRATORS, WORKERS, Striker, sequence
from tests.chaos.ledger import Ledger, new_marks
from tests.chaos.load import CHAIN, NAP, Job, Kind, Load, jobs
from tests.e2e.observing import COMPLETED, ended, eventually, outcomes, settled, submit
from tests.e2e.suite import RunningSuite

pytestmark = pytest.mark.chaos

# Strikes a worker, an orchestrator, the gateway and both stores, and has another worker hang.
_SHORT_NUMBER = 404
_SHORT_TASKS = 48
_SHORT_FAULTS = 6
_IN_FLIGHT = 32
# Far more than any run has needed; what takes longer has come to a standstill.
_SECONDS_A_TASK = 1.0
_SECONDS = 120.0


def test_a_number_stands_for_one_sequence_of_faults_and_one_of_tasks() -> None:
    def of(number: int) -> tuple[list[str], list[str]]:
        faults = sequence(number, shortest=1, longest=2, hang=3)
        return [str(next(faults)) for _ in range(50)], [str(job) for job in jobs(number, 50, marks=0)]

    assert of(7) == of(7)
    assert of(7) != of(8)


async def test_nothing_is_lost_or_done_twice_over_a_few_faults(suite: RunningSuite, client: Client) -> None:
    await run_chaos(
        suite, client, number=_SHORT_NUMBER, tasks=_SHORT_TASKS, faults=_SHORT_FAULTS, longest=1.0
    )


async def test_nothing_is_lost_or_done_twice_over_faults_without_end(
    suite: RunningSuite, client: Client, request: pytest.FixtureRequest
) -> None:
    tasks = request.config.getoption("--chaos")
    if not tasks:
        pytest.skip("the long form runs with --chaos[=TASKS]")
    # Bounded by itself, and longer than other tests may take.
    faulthandler.cancel_dump_traceback_later()
    number = request.config.getoption("--chaos-number")
    if number is None:
        number = random.SystemRandom().getrandbits(32)
    await run_chaos(suite, client, number=number, tasks=tasks, faults=tasks, longest=4.0)


async def test_a_rolling_restart_under_load_loses_nothing_and_burns_no_attempt(
    suite: RunningSuite, client: Client
) -> None:
    load = Load(client, in_flight=12)
    restarted = asyncio.Event()

    def work() -> Iterator[Job]:
        # Longer than a worker waits for what runs, so that it has to give tasks back as well.
        lengths = itertools.cycle((2.5, 0.2, 0.2))
        naps = (
            Job(number=number, kind=Kind.NAP, agent=NAP.name, task_input={"seconds": seconds})
            for number, seconds in enumerate(lengths)
        )
        return itertools.takewhile(lambda _: not restarted.is_set(), naps)

    loading = asyncio.create_task(load.run(work()))
    for process in (*ORCHESTRATORS, *WORKERS):
        await eventually(lambda: _running(client))
        await asyncio.to_thread(suite.ask, op="restart", process=process)
    restarted.set()
    await loading
    tasks = await asyncio.gather(*(client.get(each.task_id) for each in load.followed))
    others = [task for task in tasks if task.state != COMPLETED]
    assert not others, others
    assert sum(task.failures + task.crashes for task in tasks) == 0
    seen = {outcome for task in tasks for outcome in outcomes(task)}
    assert seen == {"COMPLETED", "RELEASED"}
    assert [*invariants.of_the_watchers(suite, load.followed)] == []


async def _running(client: Client) -> bool:
    """Whether an attempt is under way."""
    request = orchestrator_service_pb2.ListTasksRequest(filter='state = "RUNNING"', page_size=1)
    return bool((await client.call(client.tasks.ListTasks, request)).tasks)


async def test_a_watcher_at_any_replica_sees_every_change(suite: RunningSuite) -> None:
    token = suite.token("SUPER_ADMIN")
    async with AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(Client({"orchestrator": address}, lambda: token))
            for address in suite.context["addresses"]["orchestrator"].split(",")
        ]
        assert len(replicas) == 2
        task_id = await submit(replicas[0], CHAIN.name, value=1)
        seen = await asyncio.gather(*(_events_after_the_first(each, task_id) for each in replicas))
        assert seen[0] == seen[1] == list(range(2, (await replicas[1].get(task_id)).revision + 1))


async def _events_after_the_first(client: Client, task_id: str) -> list[int]:
    return [update.event.revision async for update in client.watch(task_id, after_revision=1)]


async def test_one_of_the_replicas_keeps_time_and_another_takes_over_when_it_dies(
    suite: RunningSuite, client: Client
) -> None:
    keepers = set()
    for process in ORCHESTRATORS:
        keepers.add(await eventually(lambda: asyncio.to_thread(_keeper, suite)))
        killed = suite.send(process, signal.SIGKILL)
        await eventually(partial(asyncio.to_thread, suite.restarted, process, killed))
        await settled(suite)
    # It was one of the two, so the connection that keeps time is not the first one any more.
    keepers.add(await eventually(lambda: asyncio.to_thread(_keeper, suite)))
    assert len(keepers) > 1
    # And it does its work: a worker that hangs loses its task to the other.
    task_ids = [await submit(client, NAP.name, seconds=1) for _ in range(4)]
    with suite.hanging(WORKERS[0]):
        tasks = await ended(client, *task_ids)
    assert {task.state for task in tasks} == {COMPLETED}


def _keeper(suite: RunningSuite) -> int | None:
    """The one connection that has the timekeeper's lock; None while nobody has it."""
    key = lock_key("orchestrator timekeeper") % 2**64
    with suite.database("orchestrator") as connection:
        found = connection.execute(
            "SELECT pid FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
            " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            " AND classid::bigint = %s AND objid::bigint = %s",
            (key >> 32, key % 2**32),
        ).fetchall()
    assert len(found) < 2
    return int(found[0][0]) if found else None


async def run_chaos(
    suite: RunningSuite, client: Client, *, number: int, tasks: int, faults: int, longest: float
) -> None:
    """Strike for as long as tasks are on their way, let everything come to rest, and look."""
    print(f"chaos: number {number}, {tasks} tasks")  # noqa: T201 - what a red run is replayed from
    load, striker = Load(client, in_flight=min(_IN_FLIGHT, tasks)), Striker(suite)
    with Ledger() as ledger:
        async with asyncio.timeout(_SECONDS + _SECONDS_A_TASK * tasks):
            loading = asyncio.create_task(load.run(jobs(number, tasks, marks=new_marks())))
            for fault, _ in zip(
                sequence(number, shortest=0.3, longest=longest, hang=9), range(faults), strict=False
            ):
                striking = asyncio.create_task(striker.strike(fault))
                await asyncio.wait((loading, striking), return_when=asyncio.FIRST_COMPLETED)
                if loading.done():
                    striking.cancel()
                    await asyncio.gather(striking, return_exceptions=True)
                    break
            await striker.release()
            await settled(suite)
            await loading
    await _at_rest(suite)
    violations = [
        *invariants.of_the_stores(suite),
        *invariants.of_the_tasks(suite, load.followed),
        *invariants.of_the_watchers(suite, load.followed),
        *invariants.of_the_ledger(load.followed, ledger),
        *await invariants.of_the_audit_log(suite, client),
    ]
    print(_report(striker, load))  # noqa: T201 - the same
    assert violations == []


async def _at_rest(suite: RunningSuite) -> None:
    """Return when the audit log has acknowledged everything, and has signed it."""

    async def delivered() -> bool:
        return invariants.undelivered(suite) == 0 and invariants.calls_under_way(suite) == 0

    await eventually(delivered)


def _report(striker: Striker, load: Load) -> str:
    kinds = Counter(str(each.job.kind) for each in load.followed)
    lines = [f"{len(load.followed)} tasks {dict(kinds)}, {len(striker.struck)} faults:", *striker.struck]
    return "\n  ".join([*lines, f"watches were interrupted {load.interruptions.total()} times"])
