"""Says which test hangs, and where each of its asyncio tasks waits, just before the run is ended for it.

The stacks of threads that `faulthandler_timeout` prints show of an event loop only that it waits.
"""

import asyncio
import io
import os
import threading
from collections.abc import Generator

import pytest

# Part of `faulthandler_timeout`, so that the tasks are told before the threads are, and the run ends.
_SHARE = 0.9

# Where the run itself prints: within a test, standard error is captured.
_printed_to = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way out that no capture takes away."""
    config.stash[_printed_to] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Give it back."""
    os.close(config.stash[_printed_to])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test with its fixtures, watched."""
    limit = float(item.config.getini("faulthandler_timeout"))
    # The long chaos run is bounded by itself.
    if not limit or item.config.getoption("--chaos"):
        return (yield)
    watch = threading.Timer(limit * _SHARE, _tell, [item.nodeid, item.config.stash[_printed_to]])
    watch.daemon = True
    watch.start()
    try:
        return (yield)
    finally:
        watch.cancel()


def _tell(test: str, to: int) -> None:
    told = io.StringIO()
    told.write(f"\n{test} hangs; its tasks:\n")
    for task in list(asyncio.tasks._all_tasks):  # type: ignore[attr-defined]  # of every loop
        if not task.done():
            told.write(f"{task.get_name()} (asked to end {task.cancelling()} times)\n")
            try:
                task.print_stack(file=told)
            except TypeError:  # of a frame that is not Python's and has no line
                told.write("(somewhere below Python)\n")
    os.write(to, told.getvalue().encode())
