"""What the sets do with tasks: submit them one by one, follow them, run many of them."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from benchmarks.floors import empty_rpc, raw_insert, timed
from benchmarks.report import Row, milliseconds, percentile
from benchmarks.suite import Running, manifest
from interlock.cli.cedar import policy_text
from interlock.cli.manifest import read_manifest
from interlock.cli.publishing import publish
from interlock.client.client import Client
from interlock.client.watching import TERMINAL
from interlock.gateway.v1 import policy_service_pb2
from interlock.orchestrator.v1 import task_pb2

_WARM_UP = 50
_SUBMITS = 300
_WATCHED = 100
_IN_FLIGHT = 32
_END_SECONDS = 180.0
_POLL_SECONDS = 0.1
_ALLOWED = {"bench": "bench_nothing", "bench-five": "bench_nothing", "bench-second": "bench_second"}


async def prepare(suite: Running) -> None:
    """Publish what the sets use, allow it, and run some of it: the first ones start slower."""
    async with suite.client("SUPER_ADMIN") as client:
        described = read_manifest(manifest("bench.toml"))
        async for _ in publish(client, described, with_agents=True, dry_run=False):
            pass
        for agent, tool in _ALLOWED.items():
            policy = policy_service_pb2.Policy(policy_id=agent, cedar=policy_text(agent, tool, ""))
            await client.call(
                client.policies.CreatePolicy, policy_service_pb2.CreatePolicyRequest(policy=policy)
            )
        for number in range(_WARM_UP):
            await client.wait(await submit(client, number))


async def submit(client: Client, number: int, agent: str = "bench") -> str:
    """Submit one task; its id."""
    return (await client.submit(agent, json.dumps({"n": number}))).task_id


async def submit_latency(suite: Running, client: Client) -> list[Row]:
    """One client, one call at a time, interleaved with its floors so that all see the same machine.

    A task is waited for before the next round: what is measured is an idle suite.
    """
    submits, inserts, rpcs = [], [], []
    async with raw_insert(suite.admin_url) as insert, empty_rpc() as rpc:
        for _ in range(_WARM_UP):
            await insert()
            await rpc()
        for number in range(_SUBMITS):
            start = time.perf_counter()
            task_id = await submit(client, number)
            submits.append(time.perf_counter() - start)
            await client.wait(task_id)
            inserts.append(await timed(insert))
            rpcs.append(await timed(rpc))
    floor = milliseconds(inserts) + milliseconds(rpcs)
    note = f"floor: raw INSERT {milliseconds(inserts):.2f} + empty RPC {milliseconds(rpcs):.2f}"
    return [
        Row(
            what="SubmitTask p50", load="idle", value=milliseconds(submits), unit="ms", floor=floor, note=note
        ),
        Row(what="SubmitTask p99", load="idle", value=percentile(submits, 0.99) * 1000, unit="ms"),
    ]


async def running_latency(client: Client) -> list[Row]:
    """From before the submit until a watcher, which comes with the answer, has heard of RUNNING."""
    running = []
    for number in range(_WATCHED):
        start = time.perf_counter()
        task_id = await submit(client, number)
        heard = None
        async for update in client.watch(task_id):
            state = update.snapshot.state or update.event.state
            if heard is None and state != task_pb2.TASK_STATE_SUBMITTED:
                heard = time.perf_counter() - start
        running.append(heard or 0.0)
    return [
        Row(what="submit to RUNNING p50", load="idle", value=milliseconds(running), unit="ms"),
        Row(what="submit to RUNNING p99", load="idle", value=percentile(running, 0.99) * 1000, unit="ms"),
    ]


async def one_by_one(client: Client, agent: str, what: str) -> list[Row]:
    """From before the submit until a watcher has heard of the end, one task at a time."""
    ended = []
    for number in range(_WATCHED):
        start = time.perf_counter()
        task_id = await submit(client, number, agent)
        async for update in client.watch(task_id):
            if (update.snapshot.state or update.event.state) in TERMINAL:
                ended.append(time.perf_counter() - start)
    return [
        Row(what=f"{what} p50", load="idle", value=milliseconds(ended), unit="ms"),
        Row(what=f"{what} p99", load="idle", value=percentile(ended, 0.99) * 1000, unit="ms"),
    ]


async def many(suite: Running, client: Client, agent: str, what: str, count: int) -> list[Row]:
    """Tasks from 32 submitters, with the processor time that each process of the suite needs for one.

    Ends are counted in the database, so that nobody is kept from work by being asked.
    """
    before = suite.cpu_seconds()
    done, written = await suite.ended_tasks(), await suite.written()
    start = time.perf_counter()
    await side_by_side(_IN_FLIGHT, (partial(submit, client, number, agent) for number in range(count)))
    submitted = time.perf_counter() - start

    async def all_ended() -> bool:
        return (await suite.ended_tasks()).total - done.total >= count

    await until(all_ended)
    seconds = time.perf_counter() - start
    completed = (await suite.ended_tasks()).completed - done.completed
    after, disk = suite.cpu_seconds(), await suite.written()
    used = {name: (after[name] - before.get(name, 0.0)) * 1000 / count for name in sorted(after)}
    each = ", ".join(f"{name} {value:.1f}" for name, value in used.items() if value >= 0.05)
    return [
        Row(what=f"{what}: submits meanwhile", load="saturated", value=count / submitted, unit="tasks/s"),
        Row(what=f"{what}: end to end", load="saturated", value=count / seconds, unit="tasks/s"),
        Row(what=f"{what}: completed", load="saturated", value=100 * completed / count, unit="%"),
        Row(what=f"{what}: CPU", load="saturated", value=sum(used.values()), unit="ms/task", note=each),
        Row(
            what=f"{what}: commits of PostgreSQL",
            load="saturated",
            value=(disk.commits - written.commits) / count,
            unit="/task",
            note=f"{(disk.wal_bytes - written.wal_bytes) / count / 1024:.1f} KiB of log,"
            f" {(disk.stored_bytes - written.stored_bytes) / count / 1024:.1f} KiB stored",
        ),
    ]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds."""
    async with asyncio.timeout(_END_SECONDS):
        while not await condition():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(_POLL_SECONDS)


async def side_by_side(width: int, calls: Iterable[Callable[[], Awaitable[object]]]) -> float:
    """Make the calls, so many at a time; the seconds it took."""
    waiting = iter(calls)

    async def caller() -> None:
        for call in waiting:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(width)))
    return time.perf_counter() - start
