"""A program that runs to its end, rather than until it is stopped."""

import asyncio
import os
import signal
from contextlib import suppress

from interlock_suite.command import Command


async def finish(command: Command, *, seconds: float) -> int:
    """Run it and return its exit code; it is killed, with its group, when it takes too long."""
    child = command.spawn()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(child.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    return child.returncode
