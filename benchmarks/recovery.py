"""The recovery set: how soon the last of 50 tasks ends after their worker was killed, or fell silent."""

import time
from functools import partial

from benchmarks import tasks
from benchmarks.report import Row
from benchmarks.suite import Running, running_suite
from interlock.client.client import Client

_TASKS = 50
_LEASE_SECONDS = 10.0
# Each task needs so long by itself.
_WORK_SECONDS = 1.0


async def measure() -> list[Row]:
    """Every figure of the set."""
    async with running_suite() as suite:
        await tasks.prepare(suite)
        async with suite.client("DEVELOPER") as client:
            killed = await _killed(suite, client)
    async with running_suite("--workers=2") as suite:
        await tasks.prepare(suite)
        async with suite.client("DEVELOPER") as client:
            return [*killed, *await _silent(suite, client)]


async def _killed(suite: Running, client: Client) -> list[Row]:
    """The supervisor starts the new worker at once; what it takes to start is part of the figure."""
    task_ids = await _all_running(suite, client)
    struck = time.perf_counter()
    suite.kill("worker")
    return await _told("killed worker", suite, task_ids, struck, floor=_WORK_SECONDS)


async def _silent(suite: Running, client: Client) -> list[Row]:
    """The worker neither works nor ends; another one takes over when its lease has run out."""
    task_ids = await _all_running(suite, client)
    struck = time.perf_counter()
    with suite.hanging("worker"):
        return await _told("silent worker", suite, task_ids, struck, floor=_LEASE_SECONDS + _WORK_SECONDS)


async def _all_running(suite: Running, client: Client) -> list[str]:
    task_ids: list[str] = []

    async def one(number: int) -> None:
        task_ids.append(await tasks.submit(client, number, "bench-second"))

    await tasks.side_by_side(_TASKS, (partial(one, number) for number in range(_TASKS)))

    async def all_run() -> bool:
        return (await suite.ends(task_ids)).begun == _TASKS

    await tasks.until(all_run)
    return task_ids


async def _told(what: str, suite: Running, task_ids: list[str], struck: float, floor: float) -> list[Row]:
    async def all_ended() -> bool:
        return (await suite.ends(task_ids)).ended == _TASKS

    await tasks.until(all_ended)
    seconds = time.perf_counter() - struck
    found = await suite.ends(task_ids)
    lost = _TASKS - found.completed
    return [
        Row(
            what=f"{what}: {_TASKS} tasks of 1 s, the last one ended after",
            load="idle",
            value=seconds,
            unit="s",
            floor=floor,
        ),
        Row(what=f"{what}: not completed", load="idle", value=lost, unit="tasks"),
        Row(what=f"{what}: finished twice", load="idle", value=found.twice, unit="tasks"),
    ]
