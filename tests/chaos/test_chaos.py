"""Random faults under load: nothing is lost, nothing is done twice, everything is told and recorded once."""

import asyncio
import faulthandler
import random
from collections import Counter

import pytest

from interlock.client import Client
from tests.chaos import invariants
from tests.chaos.faults import Striker, sequence
from tests.chaos.ledger import Ledger, new_marks
from tests.chaos.load import Load, jobs
from tests.e2e.observing import eventually, settled
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
                sequence(number, shortest=0.3, longest=longest, hang=6), range(faults), strict=False
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
