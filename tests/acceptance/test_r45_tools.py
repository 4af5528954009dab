"""R45: tool calls are checked, sandboxed, limited and logged."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from interlock.client import Client
from interlock.gateway.v1 import tool_call_pb2
from interlock.orchestrator.v1 import task_pb2
from tests.acceptance.works import ALLOCATES, DENIED, ECHO, NAP_ONCE, RAISES, STRICT
from tests.e2e.catalogue import Work, allow, publish
from tests.e2e.observing import (
    COMPLETED,
    FAILED,
    calls,
    ended,
    eventually,
    full_trail,
    run,
    running_call,
    steps,
    submit,
)
from tests.suite_running import Suite

REFUSED = tool_call_pb2.TOOL_CALL_STATUS_REFUSED


async def refused_call(client: Client, task: task_pb2.Task, reason: str) -> tool_call_pb2.ToolCall:
    """The refused call of a failed task: nothing was executed, and the journal says why."""
    assert (task.state, task.error.error_class) == (FAILED, reason)
    (call,) = await calls(client, task.task_id)
    assert (call.status, call.reason, call.isolation) == (REFUSED, reason, "")
    (step,) = await steps(client, task.task_id)
    assert (step.status, step.error.error_class) == (task_pb2.STEP_STATUS_REFUSED, reason)
    return call


def verdicts(call: tool_call_pb2.ToolCall) -> list[tuple[str, str]]:
    """What each line of the permission model said."""
    said = {True: "passed", False: "refused"}
    return [(each.check, "skipped" if each.skipped else said[each.passed]) for each in call.verdicts]


async def test_R45_1_every_violation_of_a_tools_schema_is_named(client: Client) -> None:
    good = await run(client, STRICT.name, rows=7, name="ada", mode="fast")
    assert (good.state, json.loads(good.result_json)) == (COMPLETED, [7, "ada", "fast"])
    task = await run(client, STRICT.name, rows=101, name="x", mode="slow")
    call = await refused_call(client, task, "ARGUMENTS_INVALID")
    for place in ("rows", "name", "mode"):
        assert place in call.message
        assert place in task.error.message
    # A null is an argument left out.
    task = await run(client, STRICT.name, rows="many", name=None)
    call = await refused_call(client, task, "ARGUMENTS_INVALID")
    for place in ("rows", "name", "mode"):
        assert place in call.message


async def test_R45_2_nothing_is_allowed_by_default_and_an_allow_holds_for_its_agent_tool_and_arguments(
    client: Client,
) -> None:
    call = await refused_call(client, await run(client, DENIED.name, value=1), "POLICY_DENIED")
    assert verdicts(call) == [
        ("role", "passed"),
        ("binding", "passed"),
        ("allow", "refused"),
        ("approval", "skipped"),
        ("reach", "skipped"),
    ]
    await allow(client, "acc-somebody-else", DENIED.tool)
    await refused_call(client, await run(client, DENIED.name, value=1), "POLICY_DENIED")
    await allow(client, DENIED.name, ECHO.tool, policy_id="acc-denied-another-tool")
    await refused_call(client, await run(client, DENIED.name, value=1), "POLICY_DENIED")
    await allow(client, DENIED.name, DENIED.tool, when="context.arguments.value < 10")
    task = await run(client, DENIED.name, value=9)
    assert (task.state, task.result_json) == (COMPLETED, "9")
    (executed,) = await calls(client, task.task_id)
    assert list(executed.policy_ids) == [f"{DENIED.name}-may@1"]
    await refused_call(client, await run(client, DENIED.name, value=10), "POLICY_DENIED")
    await refused_call(client, await run(client, DENIED.name, value="nine"), "POLICY_DENIED")


_ESCAPES = """
import ctypes, os, socket, subprocess, sys

def run(outside):
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.getcwd()
    attempts = {
        "runs a program": lambda: subprocess.run(["/bin/true"], check=True),
        "forks": lambda: os.fork(),
        "sees processes of the host": lambda: os.kill(outside, 0),
        "writes beside its folder": lambda: open("/usr/planted", "w"),
        "makes devices": lambda: os.mknod("/tmp/device", 0o20666, os.makedev(1, 1)),
        "changes its user": lambda: os.setuid(12345),
        "mounts": lambda: _ok(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)),
        "makes namespaces": lambda: _ok(libc.unshare(0x10000000)),
        "traces": lambda: _ok(libc.ptrace(16, 1, None, None)),
        "loads kernel code": lambda: _ok(libc.syscall(321, 5, None, 0)),
        "opens a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(("127.0.0.1", 1)),
    }
    done = []
    for name, attempt in attempts.items():
        try:
            attempt()
            done.append(name)
        except (OSError, AttributeError):
            pass
    return {"done": done, "environment": sorted(os.environ), "user": os.getuid(), "arguments": sys.argv}

def _ok(answer):
    if answer == -1:
        raise OSError("refused")
"""


async def test_R45_3_a_hostile_program_is_held_by_the_sandbox(suite: Suite, client: Client) -> None:
    work = Work(name="acc-escapes", source=_ESCAPES, arguments=("outside",))
    await publish(suite, [work])
    task = await run(client, work.name, outside=os.getpid())
    assert task.state == COMPLETED, task.error
    result = json.loads(task.result_json)
    assert result["done"] == []
    assert not [name for name in result["environment"] if name.startswith(("INTERLOCK", "PG", "PYTHON"))]
    (call,) = await calls(client, task.task_id)
    assert call.isolation in {"STANDARD", "FULL"}


_REACHES = """
import os, socket

def run(ports, paths):
    targets = [(socket.AF_INET, ("127.0.0.1", port)) for port in ports]
    targets += [(socket.AF_UNIX, path) for path in paths]
    targets += [(socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_INET6, ("::1", ports[0]))]
    reached = []
    for family, address in targets:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as one:
                one.settimeout(0.5)
                one.connect(address)
                reached.append(str(address))
        except OSError:
            pass
    try:
        reached.append(socket.gethostbyname("localhost.localdomain"))
    except OSError:
        pass
    return {"reached": reached, "seen": [path for path in paths if os.path.exists(path)]}
"""


async def test_R45_4_a_tool_reaches_no_database_and_no_network(suite: Suite, client: Client) -> None:
    work = Work(name="acc-reaches", source=_REACHES, arguments=("ports", "paths"), seconds=10)
    await publish(suite, [work])
    ports = [int(address.rpartition(":")[2]) for address in suite.context["addresses"].values()]
    sockets = [path for path in suite.folder.run.rglob("*") if path.is_socket()]
    assert {"valkey.sock", "gateway.sock"} <= {path.name for path in sockets}
    assert [path for path in sockets if "PGSQL" in path.name]
    task = await run(client, work.name, ports=ports, paths=[str(path) for path in sockets])
    assert task.state == COMPLETED, task.error
    assert json.loads(task.result_json) == {"reached": [], "seen": []}


_GREEDY = {
    "time": ("import time\ndef run():\n    time.sleep(60)\n", "TOOL_TIMEOUT"),
    "memory": (ALLOCATES.source, "LIMIT_EXCEEDED"),
    "cpu": ("def run():\n    while True:\n        pass\n", "LIMIT_EXCEEDED"),
    "output": ("def run():\n    while True:\n        print('x' * 100_000)\n", "LIMIT_EXCEEDED"),
    "result": ("def run():\n    return 'x' * 300_000\n", "LIMIT_EXCEEDED"),
    "processes": (
        "import os\ndef run():\n    while True:\n        if os.fork() == 0:\n            os._exit(0)\n",
        "PermissionError",
    ),
    "disk": (
        "def run():\n    while True:\n        open('/tmp/file', 'ab').write(bytes(1_000_000))\n",
        "OSError",
    ),
}


async def test_R45_5_time_and_resource_limits_are_enforced(suite: Suite, client: Client) -> None:
    works = {
        name: Work(
            name=f"acc-greedy-{name}",
            source=source,
            # Without a limit of its own a tool has five seconds.
            seconds=0 if name == "time" else 60,
            cpu=1,
        )
        for name, (source, _) in _GREEDY.items()
    }
    await publish(suite, works.values())
    task_ids = [await submit(client, work.name) for work in works.values()]
    tasks = dict(zip(works, await ended(client, *task_ids), strict=True))
    for name, (_, reason) in _GREEDY.items():
        assert (tasks[name].state, tasks[name].error.error_class) == (FAILED, reason), name
    (call,) = await calls(client, tasks["time"].task_id)
    took = (call.end_time.ToNanoseconds() - call.create_time.ToNanoseconds()) / 1e9
    assert 4.9 < took < 30


@pytest.mark.chaos
async def test_R45_6_every_tool_call_is_logged_whatever_became_of_it(suite: Suite, client: Client) -> None:
    lost = await submit(client, NAP_ONCE.name, seconds=15)
    await running_call(client, lost)
    await asyncio.to_thread(suite.send, "gateway", signal.SIGKILL)
    tasks = {
        "executed": await run(client, ECHO.name, value=1),
        "failed": await run(client, RAISES.name, value=1),
        "refused": await run(client, STRICT.name, rows=101, name="x", mode="slow"),
        "killed": await run(client, ALLOCATES.name),
        "lost": await given_up(client, lost),
    }
    logged = {name: await logged_of_calls(client, task) for name, task in tasks.items()}
    assert logged == {
        "executed": [("TOOL_CALL", "RUNNING", ""), ("TOOL_RESULT", "COMPLETED", "")],
        "failed": [("TOOL_CALL", "RUNNING", ""), ("TOOL_RESULT", "FAILED", "TOOL_ERROR")],
        "refused": [("TOOL_CALL", "REFUSED", "ARGUMENTS_INVALID")],
        "killed": [("TOOL_CALL", "RUNNING", ""), ("TOOL_RESULT", "FAILED", "LIMIT_EXCEEDED")],
        "lost": [("TOOL_CALL", "RUNNING", ""), ("TOOL_RESULT", "UNKNOWN", "OUTCOME_UNKNOWN")],
    }


async def given_up(client: Client, task_id: str) -> task_pb2.Task:
    """The task once a person, who is asked what became of its lost call, has said that it is to fail."""

    async def asks() -> bool:
        return (await client.get(task_id)).state == task_pb2.TASK_STATE_INPUT_REQUIRED

    await eventually(asks)
    await client.answer(task_id, '{"decision":"FAIL"}')
    return (await ended(client, task_id))[0]


async def logged_of_calls(client: Client, task: task_pb2.Task) -> list[Any]:
    """What the log says of the tool calls of a task, in its order."""
    recorded = await full_trail(client, task)
    return [entry.said for entry in recorded if entry.fields["type"] in {"TOOL_CALL", "TOOL_RESULT"}]
