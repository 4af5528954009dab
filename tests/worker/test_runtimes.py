"""The runtimes: what a plan calls with what, and which Python agents may run in the worker's process."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pytest

from interlock.agent import AgentContext, AgentError, ChildFailed, ToolError
from interlock.registry.v1 import agent_pb2
from worker_svc.errors import AgentMissing
from worker_svc.runtimes.plan import run_plan
from worker_svc.runtimes.python import TrustedAgents


@dataclass(frozen=True)
class Child:
    """A child task that has ended."""

    outcome: Any
    task_id: str = "child"

    async def result(self) -> Any:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass
class Recorder:
    """An AgentContext that answers each call with what it was asked."""

    task_id: str = "task"
    attempt: int = 1
    fails: frozenset[str] = frozenset()
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        self.calls.append((key, tool, dict(arguments)))
        if tool in self.fails:
            raise ToolError("it broke", error_class="ValueError")
        return {"of": key, "arguments": dict(arguments)}

    async def submit(self, agent: str, task_input: Mapping[str, Any], *, key: str = "") -> Child:
        self.calls.append((key, agent, dict(task_input)))
        if agent in self.fails:
            return Child(ChildFailed("it broke", error_class="OSError", task_id="child", repeatable=True))
        return Child({"of": agent, "input": dict(task_input)})


def _plan(*steps: agent_pb2.PlanStep, result: str = "") -> agent_pb2.PlanRuntime:
    return agent_pb2.PlanRuntime(steps=steps, result=result)


def _step(key: str, **arguments: str) -> agent_pb2.PlanStep:
    return agent_pb2.PlanStep(key=key, tool=f"tool-{key}", arguments=arguments)


async def test_a_step_gets_the_task_input_and_the_results_of_earlier_steps() -> None:
    context = Recorder()
    plan = _plan(_step("one", text="input.text"), _step("two", again="steps.one.arguments.text", n="`3`"))
    result = await run_plan(plan, context, {"text": "hello"})
    assert context.calls == [
        ("one", "tool-one", {"text": "hello"}),
        ("two", "tool-two", {"again": "hello", "n": 3}),
    ]
    assert result["of"] == "two"


async def test_an_argument_without_a_value_is_left_out() -> None:
    context = Recorder()
    await run_plan(_plan(_step("one", text="input.absent", other="input.zero")), context, {"zero": 0})
    assert context.calls[0][2] == {"other": 0}


async def test_the_result_expression_sees_every_step() -> None:
    plan = _plan(_step("one"), _step("two"), result="[steps.one.of, steps.two.of, input.x]")
    assert await run_plan(plan, Recorder(), {"x": 1}) == ["one", "two", 1]


async def test_an_expression_that_does_not_fit_its_document_ends_the_task_and_names_the_step() -> None:
    with pytest.raises(AgentError, match="step one, argument text") as caught:
        await run_plan(_plan(_step("one", text="length(input.n)")), Recorder(), {"n": 5})
    assert (caught.value.error_class, caught.value.retryable) == ("MAPPING_FAILED", False)


async def test_a_step_may_give_work_to_another_agent_and_later_steps_see_its_result() -> None:
    context = Recorder()
    helper = agent_pb2.PlanStep(key="one", agent="helper", arguments={"n": "input.n"})
    result = await run_plan(_plan(helper, _step("two", n="steps.one.input.n")), context, {"n": 7})
    assert context.calls == [("one", "helper", {"n": 7}), ("two", "tool-two", {"n": 7})]
    assert result["arguments"] == {"n": 7}


async def test_a_child_task_without_a_result_ends_the_plan_with_its_error() -> None:
    context = Recorder(fails=frozenset({"helper"}))
    with pytest.raises(ChildFailed, match="it broke") as caught:
        await run_plan(_plan(agent_pb2.PlanStep(key="one", agent="helper"), _step("two")), context, {})
    assert caught.value.error_class == "OSError"
    assert [call[0] for call in context.calls] == ["one"]


async def test_a_failed_tool_ends_the_plan_before_the_next_step() -> None:
    context = Recorder(fails=frozenset({"tool-one"}))
    with pytest.raises(ToolError):
        await run_plan(_plan(_step("one"), _step("two")), context, {})
    assert [call[0] for call in context.calls] == ["one"]


async def _agent(context: AgentContext, task_input: dict[str, Any]) -> Any:
    return await context.call_tool("echo", task_input)


def _not_a_coroutine(context: AgentContext, task_input: dict[str, Any]) -> Any: ...


def _install(monkeypatch: pytest.MonkeyPatch, **agents: str) -> None:
    """As if a package with these entry points were installed."""
    points = [
        metadata.EntryPoint(name=name, value=f"{__name__}:{value}", group="interlock.agents")
        for name, value in agents.items()
    ]

    def entry_points(*, group: str, name: str) -> list[metadata.EntryPoint]:
        return [point for point in points if (point.group, point.name) == (group, name)]

    monkeypatch.setattr(metadata, "entry_points", entry_points)


def test_a_python_agent_runs_only_where_the_allow_list_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, echo="_agent")
    with pytest.raises(AgentMissing, match="INTERLOCK_WORKER_TRUSTED_AGENTS"):
        TrustedAgents([]).find("echo")
    assert TrustedAgents(["echo"]).find("echo") is _agent


def test_an_allowed_agent_that_is_not_installed_or_no_coroutine_function_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _install(monkeypatch, plain="_not_a_coroutine")
    with pytest.raises(AgentMissing, match="install it on the worker"):
        TrustedAgents(["absent"]).find("absent")
    with pytest.raises(AgentMissing, match="async def"):
        TrustedAgents(["plain"]).find("plain")
