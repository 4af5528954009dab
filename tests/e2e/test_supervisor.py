"""The supervisor dies: all of the suite goes with it, and the next start takes up where it ended."""

import signal

import pytest

from interlock.client import Client
from tests.e2e.observing import (
    COMPLETED,
    assert_ended_once,
    ended,
    outcomes,
    people,
    running_call,
    submit,
)
from tests.e2e.suite import RunningSuite, until
from tests.e2e.works import ECHO, NAP
from tests.suite.harness import alive

pytestmark = pytest.mark.chaos


async def test_nothing_outlives_a_killed_supervisor_and_the_next_start_ends_the_tasks_of_before(
    suite: RunningSuite, client: Client
) -> None:
    running = await submit(client, NAP.name, seconds=2)
    await running_call(client, running)
    # A worker that does not work cannot have ended it before.
    suite.send("worker", signal.SIGSTOP)
    waiting = await submit(client, ECHO.name, value="waits")
    below = suite.kill()
    until(lambda: not any(alive(pid) for pid in below), seconds=20)
    suite.start()
    async with people(suite) as again:
        first, second = await ended(again, running, waiting)
        assert (first.state, outcomes(first)) == (COMPLETED, ["LOST", "COMPLETED"])
        assert (second.state, second.result_json, outcomes(second)) == (COMPLETED, '"waits"', ["COMPLETED"])
        for task in (first, second):
            await assert_ended_once(again, task)
