"""What the least process costs that a call could be: a bare fork, or a bare interpreter."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

# A small process of its own, since what a fork costs grows with the memory of who forks.
_FORKER = """
import os, sys, time
while sys.stdin.readline():
    used, begun = os.times(), time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    seconds, now = time.perf_counter() - begun, os.times()
    print(seconds, sum(now[:4]) - sum(used[:4]), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """What one took, from the fork until the child was reaped."""

    seconds: float
    cpu_seconds: float
    """In the steps in which the kernel tells them: only many together say something."""


@contextlib.asynccontextmanager
async def bare_fork() -> AsyncIterator[Callable[[], Awaitable[Fork]]]:
    """A call that has a small process fork, end the child and wait for it."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", "-c", _FORKER, stdin=pipe, stdout=pipe
    )
    asked, told = process.stdin, process.stdout
    if asked is None or told is None:
        raise RuntimeError("the process that forks has no pipes")

    async def fork() -> Fork:
        asked.write(b"\n")
        await asked.drain()
        seconds, cpu_seconds = (await told.readline()).split()
        return Fork(seconds=float(seconds), cpu_seconds=float(cpu_seconds))

    try:
        yield fork
    finally:
        asked.close()
        await process.wait()


async def bare_interpreter() -> float:
    """Seconds until an interpreter without anything has started and ended."""
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", "-c", "pass")
    if await process.wait():
        raise RuntimeError("a bare interpreter failed")
    return time.perf_counter() - start
