"""Python agents in the worker's sandbox: what they can do, and what they cannot."""

import asyncio
import json
import os
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from interlock.agent import AgentError, ChildFailed, ChildTask, ToolError, ToolRefused
from interlock.cli.manifest import read_manifest
from interlock.registry.v1 import agent_pb2
from interlock_sandbox import Host, Limits, OutcomeKind, Sandbox, SandboxUnavailable, ToolProgram
from tests.command_line import REPOSITORY
from tests.sandbox.hosts import without_host
from tests.sandbox.waiting import until
from worker_svc.runtimes import sandboxed
from worker_svc.runtimes.sandboxed import SandboxedAgents

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, kw_only=True)
class Child:
    """A child task that ends with what it was asked, or fails when it is given nothing."""

    task_id: str
    outcome: dict[str, Any]

    async def result(self) -> Any:
        if not self.outcome["given"]:
            raise ChildFailed("no input", error_class="Empty", task_id=self.task_id, repeatable=True)
        return self.outcome


@dataclass
class Journal:
    """An AgentContext that answers each call with what it was asked, or as the tool's name says."""

    task_id: str = "task"
    attempt: int = 3
    keys: list[str] = field(default_factory=list)
    said: list[tuple[str, float | None]] = field(default_factory=list)
    most_at_once: int = 0
    canceled: int = 0
    _running: int = 0

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        self.keys.append(key)
        self._running += 1
        self.most_at_once = max(self.most_at_once, self._running)
        try:
            await asyncio.sleep(3600 if tool == "never" else 0)
        except asyncio.CancelledError:
            self.canceled += 1
            raise
        finally:
            self._running -= 1
        match tool:
            case "broken":
                raise ToolError("it broke", error_class="ValueError")
            case "denied":
                raise ToolRefused("no policy", reason="POLICY_DENIED", call_id="c")
            case "other":
                raise AgentError("with other input", error_class="NONDETERMINISM", retryable=False)
        return dict(arguments)

    async def submit(self, agent: str, task_input: Mapping[str, Any], **options: Any) -> ChildTask:
        self.keys.append(options.pop("key"))
        return Child(task_id=f"{self.task_id}/{agent}", outcome={"given": dict(task_input), **options})

    async def ask_human(
        self, question: str, schema: Mapping[str, Any] | None = None, *, key: str = ""
    ) -> Any:
        self.keys.append(key)
        return [question, schema]

    def log(self, message: str, *, done: float | None = None) -> None:
        self.said.append((message, done))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents() -> AsyncIterator[SandboxedAgents]:
    running = SandboxedAgents(capacity=8)
    try:
        await running._started()
    except SandboxUnavailable as error:
        without_host(f"this host has no sandbox: {error}")
    yield running
    await running.close()


def _agent(body: str) -> str:
    inner = textwrap.indent(textwrap.dedent(body), "    ")
    return f"import asyncio, os\n\nasync def run(context, task):\n{inner}"


async def _run(
    agents: SandboxedAgents, body: str, task: Any = None, *, journal: Journal | None = None, **python: Any
) -> Any:
    spec = agent_pb2.PythonRuntime(source=_agent(body), **python)
    async with asyncio.timeout(30):
        return await agents.run(spec, journal or Journal(), task, seconds=20)


async def _failure(agents: SandboxedAgents, body: str, task: Any = None, **more: Any) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await _run(agents, body, task, **more)
    return caught.value


async def test_an_agent_is_given_its_task_and_calls_tools_side_by_side(agents: SandboxedAgents) -> None:
    journal = Journal()
    result = await _run(
        agents,
        """
        context.log("begun")
        context.log("well", done=0.1)
        first = await context.call_tool("echo", {"text": task["text"]})
        many = await asyncio.gather(*(context.call_tool("echo", {"n": n}) for n in range(200)))
        named = await context.call_tool("echo", {"long": "ü" * 300_000}, key="named")
        for n in range(1000):
            context.log(f"line {n}")
        context.log("the last word", done=1)
        return [first, sum(each["n"] for each in many), len(named["long"]), context.task_id, context.attempt]
        """,
        {"text": "hello 🎈"},
        journal=journal,
    )
    assert result == [{"text": "hello 🎈"}, 19900, 300_000, "task", 3]
    assert sorted(journal.keys) == sorted([*(f"echo-{n}" for n in range(1, 202)), "named"])
    # What is said between two waits goes together, and nothing is lost but what nobody could read.
    (begun, (last, done)) = journal.said
    assert begun == ("begun\nwell", 0.1)
    assert (last.splitlines()[-2:], len(last.splitlines()), done) == (["line 999", "the last word"], 20, 1)
    # A program that asks for more at once is not ended: it waits.
    assert journal.most_at_once <= sandboxed.OPEN_CALLS


async def test_the_example_counts_words_and_goes_on_where_a_part_fails(agents: SandboxedAgents) -> None:
    manifest = read_manifest(REPOSITORY / "examples" / "word_counter" / "interlock.toml")
    tool: dict[str, Any] = {}
    exec(manifest.tools[0].spec.python.source, tool)  # noqa: S102  a tool of our own

    class Counting(Journal):
        async def call_tool(self, name: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
            await super().call_tool("broken" if "unreadable" in arguments["text"] else name, arguments)
            return tool["run"](**arguments)

    parts = ["the cat " * 400, "unreadable " * 300, "the dog " * 400]
    python = manifest.agents[0].spec.python
    result = await agents.run(python, Counting(), {"text": "\n\n".join(parts), "top": 2}, seconds=20)
    assert result == {
        "words": 1600,
        "most_frequent": [["the", 800], ["cat", 400]],
        "parts": 3,
        "skipped": 1,
    }


async def test_a_failed_or_refused_tool_can_be_caught_by_its_own_class(agents: SandboxedAgents) -> None:
    seen = await _run(
        agents,
        """
        from interlock.agent import AgentError, ToolError, ToolRefused
        seen = []
        for tool in ("broken", "denied"):
            try:
                await context.call_tool(tool, {})
            except (ToolError, ToolRefused) as error:
                seen.append([type(error).__name__, str(error), error.error_class, error.retryable])
        return seen
        """,
    )
    assert seen == [
        ["ToolError", "it broke", "ValueError", False],
        ["ToolRefused", "no policy", "POLICY_DENIED", False],
    ]


async def test_an_agent_submits_tasks_awaits_them_and_asks_people(agents: SandboxedAgents) -> None:
    journal = Journal()
    seen = await _run(
        agents,
        """
        from interlock.agent import ChildFailed
        first = await context.submit("helper", {"n": 1}, task_type="part", labels={"a": "b"}, abandon=True)
        second = await context.submit("helper", {}, key="mine")
        try:
            await second.result()
        except ChildFailed as error:
            failed = [error.error_class, error.task_id, error.repeatable, error.retryable]
        said = await context.ask_human("sure?", {"type": "null"})
        return [first.task_id, await first.result(), failed, said]
        """,
        journal=journal,
    )
    options = {"agent_version": "", "task_type": "part", "labels": {"a": "b"}, "abandon": True}
    assert seen == [
        "task/helper",
        {"given": {"n": 1}, **options},
        ["Empty", "task/helper", True, False],
        ["sure?", {"type": "null"}],
    ]
    assert journal.keys == ["helper-1", "mine", "mine", "1", "helper-1"]


async def test_what_ends_the_attempt_cannot_be_caught(agents: SandboxedAgents) -> None:
    failure = await _failure(
        agents,
        """
        try:
            await context.call_tool("other", {})
        except BaseException:
            pass
        return "went on"
        """,
    )
    assert (failure.error_class, failure.retryable) == ("NONDETERMINISM", False)


@pytest.mark.parametrize(
    ("body", "error_class", "message", "retryable"),
    [
        ("raise ValueError('odd')", "ValueError", "odd", True),
        ("await context.call_tool('broken', {})", "ValueError", "it broke", False),
        (
            "import interlock.agent as sdk; raise sdk.AgentError('no', error_class='X', retryable=False)",
            "X",
            "no",
            False,
        ),
        ("import numpy", "ModuleNotFoundError", "No module named 'numpy'", True),
        ("import worker_svc", "ModuleNotFoundError", "No module named 'worker_svc'", True),
        ("return float('nan')", "AGENT_BAD_RESULT", "not JSON", False),
        ("return 'x' * (17 << 20)", "AGENT_OUTPUT_LIMIT", "the limit is", False),
        ("raise SystemExit(3)", "SystemExit", "3", True),
        ("await context.call_tool('echo', {'a': {1, 2}})", "TypeError", "not JSON serializable", True),
    ],
)
async def test_an_agent_that_fails_is_told_in_its_own_words(
    agents: SandboxedAgents, body: str, error_class: str, message: str, *, retryable: bool
) -> None:
    failure = await _failure(agents, body)
    assert (failure.error_class, failure.retryable) == (error_class, retryable)
    assert message in str(failure)


async def test_memory_and_processor_time_are_bounded(agents: SandboxedAgents) -> None:
    small = agent_pb2.PythonAgentLimits(memory_bytes=64 * 1024 * 1024)
    small.cpu.FromMilliseconds(500)
    assert await _run(agents, "return len(bytes(100_000_000))") == 100_000_000
    failure = await _failure(agents, "return len(bytes(100_000_000))", limits=small)
    assert (failure.error_class, failure.retryable) == ("AGENT_MEMORY", False)
    failure = await _failure(agents, "while True: pass", limits=small)
    assert (failure.error_class, failure.retryable) == ("AGENT_CPU", False)


async def test_a_canceled_agent_is_gone_with_all_it_had_asked(agents: SandboxedAgents) -> None:
    journal = Journal()
    body = """
    waiting = [asyncio.create_task(context.call_tool("never", {})) for _ in range(3)]
    await asyncio.sleep(0.05)
    while True: pass  # sees nothing and hears nothing
    """
    running = asyncio.create_task(_run(agents, body, journal=journal))
    await until(lambda: len(journal.keys) == 3, seconds=20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert journal.canceled == 3
    sandbox = await agents._started()
    assert sandbox.status().running == 0


async def test_calls_that_an_agent_leaves_behind_are_given_up(agents: SandboxedAgents) -> None:
    journal = Journal()
    body = """
    waiting = asyncio.create_task(context.call_tool("never", {}))
    await context.call_tool("echo", {})
    return "done"
    """
    assert await _run(agents, body, journal=journal) == "done"
    assert journal.canceled == 1


_FRAMES = """
import struct, json
ECHO = {"tool": "echo", "arguments": {}}
os.set_blocking(3, True)
def frame(kind, payload, length=None):
    data = struct.pack("!IB", len(payload) if length is None else length, kind) + payload
    while data:
        data = data[os.write(3, data):]
def call(method="call_tool", params={"tool": "echo", "arguments": {}, "key": "k"}, **more):
    frame(8, json.dumps({"method": method, "params": params, **more}).encode())
"""


@pytest.mark.parametrize(
    ("body", "error_class"),
    [
        ("frame(9, struct.pack('!I', 1) + b'{\"value\": 1}')", "AGENT_BAD_RESULT"),
        ("frame(3, b'{}')", "AGENT_BAD_RESULT"),
        ("frame(77, b'')", "AGENT_BAD_RESULT"),
        ('frame(4, b\'{"result": 1, "error": 2}\')', "AGENT_BAD_RESULT"),
        ("frame(4, b'[]')", "AGENT_BAD_RESULT"),
        ("frame(4, b'{\"error\": {}}')", "AGENT_BAD_RESULT"),
        ("frame(8, b'not json')", "AGENT_BAD_RESULT"),
        ("frame(8, b'[' * 100_000 + b']' * 100_000)", "AGENT_BAD_RESULT"),
        ('frame(8, b\'{"method": "call_tool", "method": "call_tool", "params": {}}\')', "AGENT_BAD_RESULT"),
        ('frame(8, b\'{"method": 1e999, "params": {}}\')', "AGENT_BAD_RESULT"),
        ("call(ordinal=1)", "AGENT_BAD_RESULT"),
        ("call(method='complete')", "AGENT_BAD_CALL"),
        ("call(method='__class__')", "AGENT_BAD_CALL"),
        ("call(method='submit', params={'agent': 'helper'})", "AGENT_BAD_CALL"),
        ("call(method='ask_human', params={'question': 1})", "AGENT_BAD_CALL"),
        (
            "call(params={'tool': 'echo', 'arguments': {}, 'key': 'k', 'task_id': 'another'})",
            "AGENT_BAD_CALL",
        ),
        ("call(params={'tool': 'echo', 'arguments': [], 'key': 'k'})", "AGENT_BAD_CALL"),
        ("frame(8, b'', 0xFFFFFFFF)", "AGENT_OUTPUT_LIMIT"),
        ("frame(8, b'x' * (1 << 20) + b'x')", "AGENT_OUTPUT_LIMIT"),
        (
            "while True: call(params={'tool': 'echo', 'arguments': {}, 'key': 'k' * 1_000_000})",
            "AGENT_OUTPUT_LIMIT",
        ),
        ("while True: os.write(1, b'x' * 65536)", "AGENT_OUTPUT_LIMIT"),
        ("os._exit(0)", "AGENT_CRASHED"),
        ("os.close(3)", "AGENT_CRASHED"),
        ("os.kill(os.getpid(), 9) or os.abort()", "AGENT_CRASHED"),
    ],
)
async def test_an_agent_that_abuses_its_channel_is_ended_and_others_run_on(
    agents: SandboxedAgents, body: str, error_class: str
) -> None:
    neighbour = asyncio.create_task(
        _run(agents, "await asyncio.sleep(0.2)\nreturn await context.call_tool('echo', {'n': 1})")
    )
    failure = await _failure(agents, f"{_FRAMES}\n{body}\nawait asyncio.sleep(15)")
    assert failure.error_class == error_class
    assert await neighbour == {"n": 1}


async def test_a_flood_whose_answers_nobody_takes_waits_until_its_time_is_up(
    agents: SandboxedAgents,
) -> None:
    journal = Journal()
    spec = agent_pb2.PythonRuntime(
        source=_agent(
            f"{_FRAMES}\nasked = {{'x': 'x' * 65536}}\n"
            "while True: call(params={'tool': 'echo', 'arguments': asked, 'key': 'k'})"
        )
    )
    with pytest.raises(AgentError) as caught:
        await agents.run(spec, journal, None, seconds=1.0)
    assert caught.value.error_class == "START_TO_CLOSE_TIMEOUT"
    # What fits the socket, and what may be open; not one call more was begun.
    assert len(journal.keys) < sandboxed.OPEN_CALLS + 16


async def test_without_their_bounds_a_flood_and_a_giant_would_get_through(agents: SandboxedAgents) -> None:
    """The very programs that the bounds end, under wider ones."""
    sandbox = await agents._started()
    flood = _FRAMES.replace("import struct", "import os, struct") + (
        "def run(**_):\n"
        '    frame(8, b\'{"method": "m", "params": {"x": "\' + b\'x\' * (1 << 20) + b\'"}}\')\n'
        "    for _ in range(99): call()\n"
        "    return 'through'\n"
    )

    async def kind(**bounds: int) -> OutcomeKind:
        taken = 0

        async def answer(method: str, params: Mapping[str, Any]) -> bytes:
            nonlocal taken
            taken += 1
            return b"{}"

        program = ToolProgram(source=flood)
        host = Host(answer=answer, open_calls=200, **bounds)
        outcome = await sandbox.run(program, limits=Limits(wall_seconds=10), host=host)
        assert taken <= 100
        return outcome.kind

    wide = 1 << 24
    assert await kind(call_bytes=wide, all_bytes=wide, calls=100) is OutcomeKind.COMPLETED
    assert await kind(call_bytes=wide, all_bytes=wide, calls=99) is OutcomeKind.OUTPUT_LIMIT
    assert await kind(call_bytes=wide, all_bytes=1 << 20, calls=100) is OutcomeKind.OUTPUT_LIMIT
    assert await kind(call_bytes=1 << 20, all_bytes=wide, calls=100) is OutcomeKind.OUTPUT_LIMIT
    outcome = await sandbox.run(ToolProgram(source=flood), limits=Limits(wall_seconds=10))
    assert outcome.kind is OutcomeKind.BAD_RESULT  # a tool has nobody to call


_REACHES = {
    "forks": "pid = os.fork() or os._exit(0); os.waitpid(pid, 0); return 'forked'",
    "starts_a_program": """
        import subprocess
        return subprocess.run([task["python"], "-c", "print(1)"], stdout=-1).stdout.decode()
        """,
    "opens_a_socket": "import socket; return repr(socket.socket(socket.AF_INET))",
    "reads_the_environment": "return os.environ['INTERLOCK_TEST_SECRET']",
    "reads_a_file": "return open(task['file']).read()",
    "reads_anothers_environment": "return 'x' + open(f\"/proc/{task['pid']}/environ\").read()[:1]",
    "sees_other_processes": "return [pid for pid in os.listdir('/proc') if pid == str(task['pid'])][0]",
    "imports_the_worker": "import worker_svc.orchestrator; return 'imported'",
}


@pytest.mark.parametrize("reach", sorted(_REACHES))
async def test_an_agent_reaches_nothing_of_its_host(
    agents: SandboxedAgents, reach: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOCK_TEST_SECRET", "secret")
    (tmp_path / "file").write_text("secret")
    task = {"file": str(tmp_path / "file"), "pid": os.getpid(), "python": sys.executable}
    # As an ordinary process the same code gets what it is after.
    free = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"{_agent(_REACHES[reach])}\nimport json, sys\n"
        "print('got', asyncio.run(run(None, json.loads(sys.argv[1]))))",
        json.dumps(task),
        stdout=asyncio.subprocess.PIPE,
    )
    got, _ = await free.communicate()
    assert got.startswith(b"got ") and len(got) > len(b"got \n")
    with pytest.raises(AgentError) as caught:
        await _run(agents, _REACHES[reach], task)
    assert caught.value.error_class in {
        "PermissionError",
        "FileNotFoundError",
        "KeyError",
        "IndexError",
        "ModuleNotFoundError",
    }


async def test_a_host_below_the_minimum_runs_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Sandbox) -> None:
        raise SandboxUnavailable("this host reaches isolation level PARTIAL; STANDARD is required")

    monkeypatch.setattr(Sandbox, "start", refuse)
    failure = await _failure(SandboxedAgents(capacity=1), "return 1")
    assert (failure.error_class, failure.retryable) == ("SANDBOX_UNAVAILABLE", True)
    assert "STANDARD is required" in str(failure)
