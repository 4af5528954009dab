"""The orchestrator's set: what a submit, a start, a step and a whole task cost, idle and saturated."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from benchmarks import tasks
from benchmarks.floors import empty_rpc
from benchmarks.report import Row
from benchmarks.suite import Running, running_suite
from interlock.client.client import Client

_TASKS = 1000
_SUBMITS = 2000
_IN_FLIGHT = 64


async def measure() -> list[Row]:
    """Every figure of the set."""
    return await measure_parts(tuple(PARTS))


async def measure_parts(parts: tuple[str, ...]) -> list[Row]:
    """The figures of some parts, in one suite."""
    rows: list[Row] = []
    async with running_suite() as suite:
        await tasks.prepare(suite)
        async with suite.client("DEVELOPER") as client:
            for part in PARTS:
                if part in parts:
                    rows += await PARTS[part](suite, client)
    return rows


async def _running(_suite: Running, client: Client) -> list[Row]:
    return await tasks.running_latency(client)


async def _submit_rate(suite: Running, client: Client) -> list[Row]:
    """64 callers at a time, while no worker takes anything; beside the same number of empty calls."""
    async with empty_rpc() as rpc:
        rpc_seconds = await tasks.side_by_side(_IN_FLIGHT, (rpc for _ in range(_SUBMITS)))
    with suite.hanging("worker"):
        seconds = await tasks.side_by_side(
            _IN_FLIGHT, (partial(tasks.submit, client, number, "bench-empty") for number in range(_SUBMITS))
        )
    return [
        Row(
            what="SubmitTask alone, 64 in flight",
            load="saturated",
            value=_SUBMITS / seconds,
            unit="tasks/s",
            floor=_SUBMITS / rpc_seconds,
            note="floor: empty RPCs; both with one client process",
        )
    ]


async def _one_by_one(_suite: Running, client: Client) -> list[Row]:
    return [
        *await tasks.one_by_one(client, "bench-empty", "empty sandboxed agent to its end"),
        *await tasks.one_by_one(client, "bench", "one-tool plan to its end"),
        *await tasks.one_by_one(client, "bench-five", "plan of 5 journaled steps to its end"),
    ]


async def _many(suite: Running, client: Client) -> list[Row]:
    return [
        *await tasks.many(suite, client, "bench-empty", "empty sandboxed agents", _TASKS),
        *await tasks.many(suite, client, "bench", "one-tool plans", _TASKS),
    ]


Part = Callable[[Running, Client], Awaitable[list[Row]]]

# In this order; what saturates the suite leaves a backlog of its own behind, so it comes last.
PARTS: Mapping[str, Part] = {
    "submit": tasks.submit_latency,
    "running": _running,
    "idle": _one_by_one,
    "saturated": _many,
    "rate": _submit_rate,
}
