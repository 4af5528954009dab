"""The watchers' set: how soon a thousand streams hear of a change, and what each of them costs."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import tasks
from benchmarks.fan_out import WATCH_TASK, WATCH_TASKS, Floor, Group, Heard, bare_fan_out, listening
from benchmarks.report import Row, milliseconds, percentile
from benchmarks.suite import Running, running_suite
from interlock.client.client import Client
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

_STREAMS = 500
_EVENTS = 60
_QUIET_SECONDS = 0.1
# As long as a message of WatchTask with an event is.
_MESSAGE = b"x" * 120


async def measure() -> list[Row]:
    """Every figure of the set."""
    _say("starting a suite")
    async with running_suite() as suite:
        await tasks.prepare(suite)
        # Nobody takes the task: all that happens to it is what is done here.
        async with suite.client("DEVELOPER") as client:
            with suite.hanging("worker"):
                rows = await _watchers(suite, client)
    async with bare_fan_out() as floor:
        floors = await _floor(floor)
    return [_beside(row, floors.get(row.unit, {}).get(row.what.rpartition(" ")[2])) for row in rows]


async def _watchers(suite: Running, client: Client) -> list[Row]:
    task_id = await tasks.submit(client, 0)
    address, token = suite.suite.address("orchestrator"), suite.suite.token("VIEWER")
    watch_task = messages.WatchTaskRequest(task_id=task_id)
    watch_list = messages.WatchTasksRequest(filter='agent = "bench"', from_now=True)
    groups = [
        Group(
            address=address,
            token=token,
            method=method,
            request=request.SerializeToString(),
            streams=_STREAMS,
        )
        for method, request in ((WATCH_TASK, watch_task), (WATCH_TASKS, watch_list))
    ]

    async def change(number: int) -> None:
        await (client.resume(task_id) if number % 2 else client.pause(task_id))

    async def cpu_seconds() -> float:
        return suite.cpu_seconds()["orchestrator"]

    heard, used = await _told("WatchTask and WatchTasks", groups, change, cpu_seconds)
    each = used / (_EVENTS * _STREAMS * len(groups)) * 1e6
    rows = [
        *_delays(f"event to {_STREAMS} WatchTask, beside as many lists", heard[0]),
        *_delays(f"event to {_STREAMS} WatchTasks, beside as many of one task", heard[1]),
        Row(what="orchestrator, an event and a watcher: CPU", load="idle", value=each, unit="us"),
    ]
    for name, one in zip(("WatchTask", "WatchTasks"), heard, strict=True):
        if any(len(delays) != _EVENTS for delays in one.delays):
            raise RuntimeError(f"a stream of {name} heard of other than {_EVENTS} events")
    return rows


async def _floor(floor: Floor) -> dict[str, dict[str, float]]:
    """By unit and kind of figure."""
    groups = [floor.group(_STREAMS), floor.group(_STREAMS)]

    async def change(_number: int) -> None:
        await floor.tell(_MESSAGE)

    heard, used = await _told("a bare server", groups, change, floor.cpu_seconds)
    both = _delays("", *heard)
    each = used / (_EVENTS * _STREAMS * len(groups)) * 1e6
    return {
        "ms": {row.what.rpartition(" ")[2]: row.value for row in both},
        "us": {"CPU": each},
    }


async def _told(
    what: str,
    groups: Sequence[Group],
    change: Callable[[int], Awaitable[None]],
    cpu_seconds: Callable[[], Awaitable[float]],
) -> tuple[list[Heard], float]:
    """When each change was heard of, and the processor time that its server used.

    The next change is made when everybody has heard of the one before.
    """
    with contextlib.ExitStack() as stack:
        _say(f"{what}: opening {sum(group.streams for group in groups):,} streams")
        listeners = [stack.enter_context(listening(group)) for group in groups]
        for each in listeners:
            await asyncio.to_thread(each.opened)
        before = await cpu_seconds()
        for number in range(_EVENTS):
            await asyncio.sleep(_QUIET_SECONDS)
            await change(number)
            for each, group in zip(listeners, groups, strict=True):
                await each.until((number + 1) * group.streams)
            if (number + 1) % 20 == 0:
                _say(f"{what}: {number + 1} of {_EVENTS} events")
        used = await cpu_seconds() - before
        return [each.heard() for each in listeners], used


def _delays(what: str, *heard: Heard) -> list[Row]:
    """From the time that an event bears, just before its commit, until a stream has heard of it."""
    delays = [delay for one in heard for delays in one.delays for delay in delays]
    figures = (("p50", milliseconds(delays)), ("p99", percentile(delays, 0.99) * 1000))
    return [Row(what=f"{what} {name}", load="idle", value=value, unit="ms") for name, value in figures]


def _beside(row: Row, floor: float | None) -> Row:
    return Row(
        what=row.what,
        load=row.load,
        value=row.value,
        unit=row.unit,
        floor=floor,
        note="floor: a bare server with as many streams",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
