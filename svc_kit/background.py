"""Loops that run beside a block, for ever: one that ends or fails is told and begun again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from interlock.common.cancellation import being_cancelled, end

log = structlog.get_logger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 15.0
# A loop that held out this long was well: its next failure is its first.
WELL_AFTER_SECONDS = 60.0

Loop = Callable[[], Awaitable[None]]


@asynccontextmanager
async def background(*loops: Loop, name: str) -> AsyncIterator[None]:
    """Run `loops` while the block lasts and cancel them at its end; `name` is whose they are, for the log.

    A loop that returns or raises is logged as an error and called again, after a pause that doubles.
    """
    tasks = [
        asyncio.create_task(_keep_running(loop, name), name=f"{name}: {_called(loop)}") for loop in loops
    ]
    try:
        yield
    finally:
        await end(*tasks)


async def _keep_running(loop: Loop, name: str) -> None:
    clock = asyncio.get_running_loop()
    pause = FIRST_PAUSE_SECONDS
    while True:
        began = clock.time()
        try:
            await loop()
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            log.exception("background_loop_cancelled_from_below", of=name, loop=_called(loop))
        except Exception:
            if being_cancelled():
                raise  # a failure in the moment of the cancellation hides it
            log.exception("background_loop_failed", of=name, loop=_called(loop))
        else:
            log.error("background_loop_ended", of=name, loop=_called(loop))
        if clock.time() - began > WELL_AFTER_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE_SECONDS)


def _called(loop: Loop) -> str:
    """The loop's name in the log: its class and method where it is a method."""
    method = getattr(loop, "func", loop)  # what a functools.partial calls
    return str(getattr(method, "__qualname__", repr(method)))
