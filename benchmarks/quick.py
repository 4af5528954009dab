"""The quick set: submit latency, submit to RUNNING at a watcher, and a thousand tasks end to end."""

from benchmarks import tasks
from benchmarks.report import Row
from benchmarks.suite import running_suite

_TASKS = 1000


async def measure() -> list[Row]:
    """Every figure of the set."""
    async with running_suite() as suite:
        await tasks.prepare(suite)
        async with suite.client("DEVELOPER") as client:
            return [
                *await tasks.submit_latency(suite, client),
                *await tasks.running_latency(client),
                *await tasks.one_by_one(client, "bench", "one-tool plan to its end"),
                *await tasks.many(suite, client, "bench", "one-tool plans", _TASKS),
            ]
