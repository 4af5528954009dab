"""Hostile tools through the whole path: each ends with its reason and its entry, and the suite works on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from interlock.client import Client
from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import task_pb2
from tests.e2e.catalogue import Work
from tests.e2e.observing import (
    COMPLETED,
    FAILED,
    assert_ended_once,
    calls,
    entries_of,
    full_trail,
    outcomes,
    run,
    steps,
)
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ALLOCATES, CONNECTS, ECHO, FLOODS, FORKS, READS, SLEEPS


@pytest.fixture(autouse=True)
async def the_suite_works_on(suite: RunningSuite, client: Client) -> AsyncIterator[None]:
    """After the test: no process was lost, and a good tool is executed."""
    before = suite.processes()
    yield
    assert suite.processes() == before
    assert (await run(client, ECHO.name, value="still here")).state == COMPLETED


async def failed(client: Client, work: Work, **task_input: object) -> task_pb2.Task:
    """The failed task of a hostile tool, which was tried once and recorded once."""
    task = await run(client, work.name, **task_input)
    assert (task.state, outcomes(task)) == (FAILED, ["FAILED"])
    await assert_ended_once(client, task)
    (call,) = await calls(client, task.task_id)
    assert call.status == tool_call_pb2.TOOL_CALL_STATUS_FAILED
    assert call.isolation in {"STANDARD", "FULL"}
    (step,) = await steps(client, task.task_id)
    assert step.status == task_pb2.STEP_STATUS_FAILED
    assert step.error.error_class == task.error.error_class
    assert task.error.step_key == step.step_key
    recorded = await full_trail(client, task)
    (begun,) = entries_of(recorded, "TOOL_CALL")
    (result,) = entries_of(recorded, "TOOL_RESULT")
    assert begun.said == ("TOOL_CALL", "RUNNING", "")
    assert begun.parts["arguments"] == task_input
    assert result.said == ("TOOL_RESULT", "FAILED", call.reason)
    return task


@pytest.mark.parametrize(
    ("work", "reason"), [(SLEEPS, "TOOL_TIMEOUT"), (FLOODS, "LIMIT_EXCEEDED"), (ALLOCATES, "LIMIT_EXCEEDED")]
)
async def test_a_tool_that_goes_beyond_its_limits_is_ended(client: Client, work: Work, reason: str) -> None:
    task = await failed(client, work)
    assert task.error.error_class == reason


async def test_a_tool_that_forks_gets_no_process(client: Client) -> None:
    task = await failed(client, FORKS)
    assert task.error.error_class in {"PermissionError", "BlockingIOError"}


async def test_a_tool_that_opens_the_network_reaches_nobody(suite: RunningSuite, client: Client) -> None:
    peers = 0

    async def on_peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal peers
        peers += 1
        writer.close()

    async with await asyncio.start_server(on_peer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        task = await failed(client, CONNECTS, port=port, path=str(suite.folder.socket("orchestrator")))
        assert task.error.error_class in {"PermissionError", "FileNotFoundError", "ConnectionRefusedError"}
        assert peers == 0


async def test_a_tool_that_reads_the_hosts_files_finds_none_of_them(
    suite: RunningSuite, client: Client, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("the canary sings")
    keys = suite.folder.keys / "issuer.pem"
    assert keys.exists()
    paths = [canary, keys, suite.folder.token("gateway"), "/etc/passwd", "/proc/1/environ"]
    task = await failed(client, READS, paths=[str(path) for path in paths])
    assert task.error.error_class == "LookupError"
    for secret in ("canary sings", "PRIVATE KEY", "root:", "INTERLOCK"):
        assert secret not in task.error.message
