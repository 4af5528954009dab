"""Python agents, trusted and sandboxed, in a worker process of its own, against the real services."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from interlock.cli.tracing import read_trace, trace_lines
from interlock.client import Client
from interlock.client.errors import InterlockError
from interlock.common import documents
from interlock.gateway.v1 import gateway_service_pb2, policy_service_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock.registry.v1 import agent_pb2, registry_service_pb2, tool_pb2, tool_service_pb2
from interlock_suite.children import CHILDREN
from interlock_suite.control import ask
from interlock_suite.folder import DataFolder
from interlock_suite.options import Options
from interlock_suite.supervisor import Suite
from tests.command_line import argv, environment, interlock

# One loop for all: the supervisor lives on it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

_SECONDS = 60.0
CAPACITY = 4
_AGENT = '''
from interlock.agent import ToolError


async def run(context, task):
    """Calls a tool as often as it is told, and catches what the tool raises."""
    seen = []
    for number in task["numbers"]:
        try:
            seen.append(await context.call_tool("halve", {"n": number}))
        except ToolError as error:
            seen.append(error.error_class)
    return {"seen": seen, "attempt": context.attempt}


async def leave(context, task):
    raise SystemError("the agent gave up")
'''
_SANDBOXED = """
import asyncio, os
from interlock.agent import ToolError

async def run(context, task):
    # Each attempt but the last hangs after one more step, so that its worker can be killed there.
    seen = []
    for number in task["numbers"]:
        seen.append(await context.call_tool("halve", {"n": number}))
        if task.get("hang") and len(seen) == context.attempt < 3:
            await asyncio.sleep(3600)
    try:
        await context.call_tool("halve", {"n": 1})
    except ToolError as error:
        seen.append(error.error_class)
    return {"seen": seen, "attempt": context.attempt, "environment": sorted(os.environ)}

async def enlarge(context, task):
    return {"seen": len(task["text"]), "text": task["text"] * 2}

async def talk(context, task):
    context.log("half way", done=0.5)
    await asyncio.sleep(3600)

async def change_its_mind(context, task):
    await context.call_tool("halve", {"n": 2 * context.attempt})
    raise OSError("once more")
"""
_FAMILY = """
import asyncio
from interlock.agent import ChildFailed

async def run(context, task):
    # Gives each number to an agent of its own, and goes on with all of them.
    children = [await context.submit(task["agent"], {"numbers": [n]}) for n in task["numbers"]]
    results = await asyncio.gather(*(child.result() for child in children), return_exceptions=True)
    return {
        "seen": [
            [each.error_class, each.repeatable] if isinstance(each, ChildFailed) else each["seen"][0]
            for each in results
        ],
        "children": [child.task_id for child in children],
    }

async def ask(context, task):
    half = await context.call_tool("halve", {"n": 4})
    answer = await context.ask_human(f"Is {half} right?", {"type": "boolean"})
    return {"half": half, "right": answer, "attempt": context.attempt}
"""
# What an agent makes of a number goes into a tool.
_CHAIN = agent_pb2.PlanRuntime(
    steps=[
        agent_pb2.PlanStep(key="quarter", agent="held", arguments={"numbers": "input.numbers"}),
        agent_pb2.PlanStep(key="eighth", tool="halve", arguments={"n": "steps.quarter.seen[0]"}),
    ]
)
_TOOL = """
def run(n):
    if n % 2:
        raise ValueError("odd")
    return n // 2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Without:
    """A suite that runs no worker, and what one needs to join it."""

    folder: DataFolder
    tokens: Mapping[str, str]  # by role

    def client(self, role: str) -> Client:
        context = json.loads(self.folder.context.read_text())
        return Client(context["addresses"], lambda: self.tokens[role])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def without_worker() -> AsyncIterator[Without]:
    with tempfile.TemporaryDirectory(prefix="il-", ignore_cleanup_errors=True) as folder:
        children = tuple(child for child in CHILDREN if child.name != "worker")
        suite = Suite(Options(data_dir=Path(folder) / "a", port_base=None, children=children))
        try:
            await suite.start()
            running = Without(
                folder=suite.folder,
                tokens={
                    "WORKER": await _token(suite, "WORKER", pools=["default/default"]),
                    "DEVELOPER": await _token(suite, "DEVELOPER"),
                    "SUPER_ADMIN": await _token(suite, "SUPER_ADMIN"),
                },
            )
            await _publish(running)
            yield running
        finally:
            await suite.stop()


async def _token(suite: Suite, role: str, **more: object) -> str:
    """Asked from another thread: who answers lives on this loop."""
    answer = await asyncio.to_thread(ask, suite.folder.control, {"op": "token", "roles": [role], **more})
    return str(answer["token"])


async def _publish(running: Without) -> None:
    async with running.client("SUPER_ADMIN") as editor:
        await editor.tools.CreateTool(tool_service_pb2.CreateToolRequest(name="halve"))
        spec = tool_pb2.ToolSpec(
            input_schema_json='{"type": "object", "properties": {"n": {"type": "integer"}}}',
            python=tool_pb2.PythonTool(source=_TOOL),
        )
        await editor.tools.PublishToolVersion(
            tool_service_pb2.PublishToolVersionRequest(tool="halve", version="1.0.0", spec=spec)
        )
        for name in ("halver", "leaver", "stranger"):
            await _publish_agent(editor, name, agent_pb2.PythonRuntime(entry_point=name))
        for name, entrypoint in (
            ("held", ""),
            ("fickle", "change_its_mind"),
            ("large", "enlarge"),
            ("talker", "talk"),
        ):
            python = agent_pb2.PythonRuntime(source=_SANDBOXED, entrypoint=entrypoint)
            version = await _publish_agent(editor, name, python, max_failures=2)
            assert version.isolation == "SANDBOXED"
        for name, entrypoint in (("boss", ""), ("barred", ""), ("asker", "ask")):
            await _publish_agent(editor, name, agent_pb2.PythonRuntime(source=_FAMILY, entrypoint=entrypoint))
        await _publish_agent(editor, "chain", _CHAIN)
        barred = 'forbid (principal == Interlock::Agent::"barred", action, resource);'
        policy = policy_service_pb2.Policy(policy_id="barred", cedar=barred)
        await editor.policies.CreatePolicy(policy_service_pb2.CreatePolicyRequest(policy=policy))
        allow = (
            'permit (principal, action == Interlock::Action::"call_tool",'
            ' resource == Interlock::Tool::"halve");'
        )
        policy = policy_service_pb2.Policy(policy_id="halve", cedar=allow)
        await editor.policies.CreatePolicy(policy_service_pb2.CreatePolicyRequest(policy=policy))


async def _publish_agent(
    editor: Client,
    name: str,
    runtime: agent_pb2.PythonRuntime | agent_pb2.PlanRuntime,
    *,
    max_failures: int = 1,
) -> agent_pb2.AgentVersion:
    await editor.agents.CreateAgent(registry_service_pb2.CreateAgentRequest(name=name))
    spec = agent_pb2.AgentSpec(
        capabilities=["numbers"],
        tools=[agent_pb2.ToolBinding(tool="halve")],
        python=runtime if isinstance(runtime, agent_pb2.PythonRuntime) else None,
        plan=runtime if isinstance(runtime, agent_pb2.PlanRuntime) else None,
        retry=agent_pb2.RetryPolicy(max_failures=max_failures),
    )
    spec.retry.initial_interval.FromMilliseconds(10)
    published = await editor.agents.PublishAgentVersion(
        registry_service_pb2.PublishAgentVersionRequest(agent=name, version="1.0.0", spec=spec)
    )
    return published.agent_version


class Worker:
    """A worker process that can be killed; the next one takes its slot."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.process = self._start()

    def kill_and_restart(self) -> None:
        self.process.kill()
        self.process.wait(_SECONDS)
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-m", "worker_svc"], env=dict(self._environment))


@pytest.fixture(scope="module")
def worker(without_worker: Without, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker that trusts `halver` and `leaver`, which a package installed for it alone provides."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "trusted_numbers.py").write_text(_AGENT)
    installed = packages / "trusted_numbers-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: trusted-numbers\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[interlock.agents]\nhalver = trusted_numbers:run\nleaver = trusted_numbers:leave\n"
        "stranger = trusted_numbers:run\n"
    )
    folder = without_worker.folder
    token = packages / "token"
    token.write_text(without_worker.tokens["WORKER"])
    password = (folder.keys / "valkey" / "password").read_text().strip()
    running = Worker(
        {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{packages}{os.pathsep}{Path(__file__).parents[2]}",
            "INTERLOCK_WORKER_TOKEN_FILE": str(token),
            "INTERLOCK_WORKER_TRUSTED_AGENTS": '["halver", "leaver"]',
            "INTERLOCK_WORKER_REDIS_URL": f"unix://:{password}@{folder.socket('valkey')}?db=0",
            "INTERLOCK_WORKER_ORCHESTRATOR_ADDRESS": f"unix:{folder.socket('orchestrator')}",
            "INTERLOCK_WORKER_REGISTRY_ADDRESS": f"unix:{folder.socket('registry')}",
            "INTERLOCK_WORKER_GATEWAY_ADDRESS": f"unix:{folder.socket('gateway')}",
            "INTERLOCK_WORKER_LOG_LEVEL": "warning",
            "INTERLOCK_WORKER_SLOT": "test",
            "INTERLOCK_WORKER_CAPACITY": str(CAPACITY),
        },
    )
    yield running
    running.process.terminate()
    # SIGTERM drains: the process ends by itself, and well.
    assert running.process.wait(_SECONDS) == 0


@contextlib.asynccontextmanager
async def _submitted(running: Without, agent: str, task_input: object) -> AsyncIterator[task_pb2.Task]:
    async with running.client("DEVELOPER") as client, asyncio.timeout(_SECONDS):
        task = await client.submit(agent, json.dumps(task_input))
        yield await client.wait(task.task_id)


@pytest.mark.usefixtures("worker")
async def test_a_trusted_agent_calls_tools_through_the_gateway_and_is_marked_as_trusted(
    without_worker: Without,
) -> None:
    async with _submitted(without_worker, "halver", {"numbers": [4, 3, 10]}) as task:
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
        assert json.loads(task.result_json) == {"seen": [2, "ValueError", 5], "attempt": 1}
        assert task.isolation == "TRUSTED"


@pytest.mark.usefixtures("worker")
async def test_what_an_agent_raises_is_the_failure_of_its_task(without_worker: Without) -> None:
    async with _submitted(without_worker, "leaver", {}) as task:
        assert task.state == task_pb2.TASK_STATE_FAILED
        assert (task.error.error_class, task.error.message) == ("SystemError", "the agent gave up")


@pytest.mark.usefixtures("worker")
async def test_an_installed_agent_that_the_worker_does_not_trust_does_not_run(
    without_worker: Without,
) -> None:
    async with _submitted(without_worker, "stranger", {"numbers": [2]}) as task:
        assert task.state == task_pb2.TASK_STATE_FAILED
        assert task.error.error_class == "AGENT_MISSING"
        assert "allow-list" in task.error.message


async def test_an_unknown_agent_is_refused_when_it_is_submitted(without_worker: Without) -> None:
    async with without_worker.client("DEVELOPER") as client:
        with pytest.raises(InterlockError) as caught:
            await client.submit("nobody", "{}")
        assert caught.value.reason == "AGENT_NOT_FOUND"


@pytest.mark.usefixtures("worker")
async def test_a_sandboxed_agent_calls_tools_through_the_gateway_and_sees_nothing_of_its_worker(
    without_worker: Without,
) -> None:
    async with _submitted(without_worker, "held", {"numbers": [4, 10]}) as task:
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
        result = json.loads(task.result_json)
        assert (result["seen"], result["attempt"]) == ([2, 5, "ValueError"], 1)
        assert not [name for name in result["environment"] if "INTERLOCK" in name or name == "PATH"]
        assert task.isolation == "SANDBOXED"


async def test_a_worker_killed_between_any_two_steps_loses_none_and_repeats_none(
    without_worker: Without, worker: Worker
) -> None:
    async with without_worker.client("DEVELOPER") as client, asyncio.timeout(_SECONDS):
        submitted = await client.submit("held", json.dumps({"numbers": [4, 10, 6], "hang": True}))
        for killed in (1, 2):
            await _until_done(client, submitted.task_id, killed)
            await asyncio.to_thread(worker.kill_and_restart)
        task = await client.wait(submitted.task_id)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
        result = json.loads(task.result_json)
        assert (result["seen"], result["attempt"]) == ([2, 5, 3, "ValueError"], 3)
        # What was done before a kill was not done again.
        assert sorted(await _done(client, submitted.task_id)) == [
            ("halve-1", 1),
            ("halve-2", 2),
            ("halve-3", 3),
            ("halve-4", 3),
        ]


async def _until_done(client: Client, task_id: str, count: int) -> None:
    while True:
        if len(await _done(client, task_id)) == count:
            return
        await asyncio.sleep(0.05)


async def _until(client: Client, task_id: str, met: Callable[[task_pb2.Task], bool]) -> task_pb2.Task:
    while True:
        task = await client.get(task_id)
        if met(task):
            return task
        await asyncio.sleep(0.02)


async def _done(client: Client, task_id: str) -> list[tuple[str, int]]:
    """Step and attempt of each call that the gateway has ended."""
    listed = await client.gateway.ListToolCalls(
        gateway_service_pb2.ListToolCallsRequest(filter=f'task_id = "{task_id}"')
    )
    return [(call.step_key, call.attempt) for call in listed.tool_calls if call.HasField("end_time")]


@pytest.mark.usefixtures("worker")
async def test_an_agent_that_replays_with_other_input_is_stopped_as_not_deterministic(
    without_worker: Without,
) -> None:
    async with _submitted(without_worker, "fickle", {}) as task:
        assert task.state == task_pb2.TASK_STATE_FAILED
        assert (task.error.error_class, task.failures) == ("NONDETERMINISM", 2)
        assert [attempt.error.error_class for attempt in task.attempts] == ["OSError", "NONDETERMINISM"]


@pytest.mark.usefixtures("worker")
async def test_megabytes_go_into_a_sandboxed_agent_and_come_out_of_it(without_worker: Without) -> None:
    text = "ü" * 1_000_000
    async with _submitted(without_worker, "large", {"text": text}) as task:
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
        assert json.loads(task.input_json) == {"text": text}
        assert json.loads(task.result_json) == {"seen": len(text), "text": text * 2}
        assert task.result_blob == documents.digest(task.result_json.encode())


@pytest.mark.usefixtures("worker")
async def test_agents_give_work_to_other_agents_and_more_parents_than_slots_do_not_stand_still(
    without_worker: Without,
) -> None:
    async with without_worker.client("DEVELOPER") as client, asyncio.timeout(_SECONDS):
        asked = json.dumps({"agent": "held", "numbers": [4, 3]})
        parents = [await client.submit("boss", asked) for _ in range(CAPACITY + 2)]
        for parent in parents:
            task = await client.wait(parent.task_id)
            assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
            result = json.loads(task.result_json)
            assert result["seen"] == [2, ["ValueError", False]]
            assert (task.child_count, task.open_child_count, task.failures) == (2, 0, 0)
            first = await client.get(result["children"][0])
            assert (first.parent_task_id, first.submitter) == (task.task_id, "agent:boss")
        lines = list(trace_lines(await read_trace(client, parents[0].task_id), payloads=False))
    assert lines[0].startswith("boss 1.0.0  COMPLETED")
    assert [found.group() for line in lines[1:] if (found := re.match(r"[│├└─ ]*\w+-?\d?", line))] == [
        "├─ held-1",
        "│  ├─ halve-1",
        "│  ├─ halve-2",
        "│  └─ result",
        "├─ held-2",
        "│  ├─ halve-1",
        "│  └─ FAILED",
        "└─ result",
    ]


async def test_a_parent_killed_while_its_children_run_has_each_child_once(
    without_worker: Without, worker: Worker
) -> None:
    async with without_worker.client("DEVELOPER") as client, asyncio.timeout(_SECONDS):
        parent = await client.submit("boss", json.dumps({"agent": "held", "numbers": [4, 8, 12]}))
        await _until(client, parent.task_id, lambda task: task.child_count > 0)
        await asyncio.to_thread(worker.kill_and_restart)
        task = await client.wait(parent.task_id)
        assert task.state == task_pb2.TASK_STATE_COMPLETED, task.error
        result = json.loads(task.result_json)
        assert (result["seen"], task.child_count) == ([2, 4, 6], 3)
        for child in result["children"]:
            assert (await client.get(child)).state == task_pb2.TASK_STATE_COMPLETED


def _first_said(folder: str, task_id: str) -> str:
    """The first line of `interlock watch` that an agent said."""
    watching = [*argv("--data-dir", folder, "watch", task_id)]
    with subprocess.Popen(watching, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            return next(line for line in process.stdout if " says " in line)
        finally:
            process.kill()


@pytest.mark.usefixtures("worker")
async def test_who_watches_a_task_hears_what_its_agent_says_while_it_runs(without_worker: Without) -> None:
    folder = str(without_worker.folder.root)
    async with without_worker.client("DEVELOPER") as client, asyncio.timeout(_SECONDS):
        task = await client.submit("talker", "{}")
        async for update in client.watch(task.task_id, progress=True):
            if update.HasField("progress"):
                assert (update.progress.message, update.progress.done) == ("half way", 0.5)
                # And so does an operator, live and afterwards.
                live = await asyncio.to_thread(_first_said, folder, task.task_id)
                assert live.split()[1:] == ["says", "50%", "half", "way"]
                await client.cancel(task.task_id)
        shown = await asyncio.to_thread(interlock, "--data-dir", folder, "get", task.task_id)
        assert "half way" in shown.stdout


@pytest.mark.usefixtures("worker")
async def test_a_plan_gives_work_to_an_agent_and_goes_on_with_what_it_made(without_worker: Without) -> None:
    async with _submitted(without_worker, "chain", {"numbers": [16]}) as task:
        assert (task.result_json, task.child_count) == ("4", 1)


@pytest.mark.usefixtures("worker")
async def test_a_plan_ends_with_the_error_of_the_agent_that_it_gave_work_to(without_worker: Without) -> None:
    async with _submitted(without_worker, "chain", {"numbers": [3]}) as task:
        assert task.state == task_pb2.TASK_STATE_FAILED
        assert task.error.error_class == "ValueError"


@pytest.mark.usefixtures("worker")
async def test_a_child_may_do_only_what_the_agent_above_it_may_do_too(without_worker: Without) -> None:
    async with _submitted(without_worker, "barred", {"agent": "held", "numbers": [4]}) as task:
        result = json.loads(task.result_json)
        assert result["seen"] == [["ANCESTOR_DENIED", False]]
    async with without_worker.client("DEVELOPER") as client:
        listed = await client.gateway.ListToolCalls(
            gateway_service_pb2.ListToolCallsRequest(filter=f'task_id = "{result["children"][0]}"')
        )
    (call,) = listed.tool_calls
    assert call.reason == "ANCESTOR_DENIED"
    assert any("works for agent barred" in verdict.explanation for verdict in call.verdicts)


@pytest.mark.usefixtures("worker")
async def test_an_agent_asks_a_person_and_goes_on_with_an_answer_that_fits(without_worker: Without) -> None:
    async with without_worker.client("DEVELOPER") as client, asyncio.timeout(_SECONDS):
        asker = await client.submit("asker", "{}")
        asked = task_pb2.TASK_STATE_INPUT_REQUIRED
        waiting = await _until(client, asker.task_id, lambda task: task.state == asked)
        assert [each.prompt for each in waiting.input_requests] == ["Is 2 right?"]
        with pytest.raises(InterlockError) as caught:
            await client.answer(asker.task_id, '"perhaps"')
        assert caught.value.reason == "INVALID_FIELDS"
        folder = str(without_worker.folder.root)
        done = await asyncio.to_thread(interlock, "--data-dir", folder, "answer", asker.task_id, "true")
        assert done.returncode == 0, done.stderr
        task = await client.wait(asker.task_id)
        assert json.loads(task.result_json) == {"half": 2, "right": True, "attempt": 2}
