"""The gateway's set: a whole call, the sandbox below it, its checks, and how exactly it is ended."""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks import checks, gateway_calls, sandboxes
from benchmarks.report import Row


async def measure() -> list[Row]:
    """Every figure of the set."""
    return await measure_parts(tuple(PARTS))


async def measure_parts(parts: tuple[str, ...]) -> list[Row]:
    """The figures of some parts, one after the other."""
    return [row for part in PARTS if part in parts for row in await PARTS[part]()]


PARTS: Mapping[str, Callable[[], Awaitable[list[Row]]]] = {
    "warm": sandboxes.warm,
    "cold": sandboxes.cold,
    "memory": sandboxes.memory,
    "timeouts": sandboxes.timeouts,
    "checks": checks.measure,
    "calls": gateway_calls.measure,
}
