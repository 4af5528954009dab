"""Model agents, with a model that answers from a script."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from interlock.agent import AgentError, ChildFailed, ToolRefused
from interlock.registry.v1.agent_pb2 import LlmRuntime
from worker_svc.llm.agent import BoundAgent, BoundTool, function_names, run_agent
from worker_svc.llm.budget import Budget
from worker_svc.llm.guard import LoopGuard

ADD = BoundTool(
    name="math.add",
    description="Adds.",
    input_schema={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)
WRITER = BoundAgent(
    name="writer",
    version="1.2.0",
    description="Writes.",
    input_schema_json=json.dumps(
        {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]}
    ),
)
TOTAL = json.dumps({"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]})
Reply = Mapping[str, Any]


def says(text: str) -> Reply:
    return {"role": "assistant", "content": text}


def calls(function: str, *arguments: Any) -> Reply:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call-{number}",
                "type": "function",
                "function": {"name": function, "arguments": json.dumps(each)},
            }
            for number, each in enumerate(arguments)
        ],
    }


@dataclass
class Script:
    """The model's answers in order, the last one for ever; and an AgentContext whose tools add."""

    replies: list[Reply]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    called: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tool: Callable[[dict[str, Any]], Any] = lambda arguments: arguments["a"] + arguments["b"]
    child: Callable[[dict[str, Any]], Any] = lambda task_input: f"On {task_input['topic']}."
    task_id: str = "0190b1d2-0000-7000-8000-000000000000"
    attempt: int = 1

    async def call_model(self, key: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((key, body))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        return {
            "response": {
                "id": "r",
                "object": "chat.completion",
                "created": 1,
                "model": "scripted",
                "choices": [{"index": 0, "message": reply, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
            },
            "usage": {"input_tokens": 10, "output_tokens": 5, "cost_micros": 7},
        }

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        self.called.append((tool, dict(arguments)))
        return self.tool(dict(arguments))

    async def submit(self, agent: str, task_input: Mapping[str, Any], *, agent_version: str) -> "Script":
        self.called.append((f"{agent} {agent_version}", dict(task_input)))
        return self

    async def result(self) -> Any:
        return self.child(self.called[-1][1])

    async def run(self, *, schema: str = "", **runtime: Any) -> Any:
        fields: dict[str, Any] = {"instructions": "Add.", "connection": "local", "model": "small"}
        return await run_agent(
            LlmRuntime(**(fields | runtime)),
            context=self,  # type: ignore[arg-type]  # what a model agent uses of it
            call_model=self.call_model,
            tools=[ADD],
            agents=[WRITER],
            output_schema_json=schema,
            task_input={"n": 3},
        )


async def test_a_model_calls_a_tool_and_answers() -> None:
    script = Script([calls("math_add", {"a": 1, "b": 2}), says("It is 3.")])
    assert await script.run() == "It is 3."
    assert script.called == [("math.add", {"a": 1, "b": 2})]
    assert [key for key, _ in script.asked] == ["model-1", "model-2"]
    first, second = (body for _, body in script.asked)
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert json.loads(first["messages"][1]["content"]) == {"n": 3}
    assert second["messages"][-1]["content"] == "3"


async def test_a_request_names_neither_the_model_nor_a_way_to_it() -> None:
    script = Script([says("done")])
    await script.run(temperature=0.5)
    ((_, body),) = script.asked
    assert body.keys() & {"model", "stream", "stream_options", "api_key", "base_url"} == set()
    assert body["temperature"] == 0.5


async def test_the_same_answers_bring_the_same_requests_so_that_a_replay_finds_them() -> None:
    replies = [calls("math_add", {"a": 1, "b": 2}, {"a": 3, "b": 4}), calls("result", {"total": 10})]
    first, second = Script(list(replies)), Script(list(replies))
    assert await first.run(schema=TOTAL) == await second.run(schema=TOTAL) == {"total": 10}
    assert first.asked == second.asked
    assert first.called == second.called == [("math.add", {"a": 1, "b": 2}), ("math.add", {"a": 3, "b": 4})]


async def test_a_result_that_does_not_fit_goes_back_with_what_is_wrong_and_not_for_ever() -> None:
    script = Script([calls("result", {"total": "ten"}), calls("result", {"total": 10})])
    assert await script.run(schema=TOTAL) == {"total": 10}
    assert "/total" in json.dumps(script.asked[1][1]["messages"][-1])
    with pytest.raises(AgentError) as raised:
        await Script([calls("result", {"total": "ten"})]).run(schema=TOTAL)
    assert (raised.value.error_class, raised.value.retryable) == ("MODEL_OUTPUT_INVALID", False)


@pytest.mark.parametrize(
    "limits", [{"max_steps": 4}, {"max_tokens": 60}, {"max_cost_micros": 28}], ids=["steps", "tokens", "cost"]
)
async def test_a_model_that_uses_up_its_budget_is_ended(limits: dict[str, Any]) -> None:
    script = Script([calls("math_add", {"a": n, "b": 0}) for n in range(50)])
    with pytest.raises(AgentError) as raised:
        await script.run(**limits)
    assert (raised.value.error_class, raised.value.retryable) == ("BUDGET_EXCEEDED", False)
    assert len(script.asked) == 4


async def test_a_model_that_asks_for_the_same_again_is_told_and_then_ended() -> None:
    script = Script([calls("math_add", {"a": 1, "b": 2})])
    with pytest.raises(AgentError) as raised:
        await script.run()
    assert (raised.value.error_class, raised.value.retryable) == ("AGENT_LOOP", False)
    assert len(script.called) == 2
    assert "does not change" in json.dumps(script.asked[3][1]["messages"][-1])


async def test_a_refused_tool_is_told_to_the_model_which_may_go_on() -> None:
    def refused(_: dict[str, Any]) -> Any:
        raise ToolRefused("no policy allows it", reason="POLICY_DENIED", call_id="c")

    script = Script([calls("math_add", {"a": 1, "b": 2}), says("Without it.")], tool=refused)
    assert await script.run() == "Without it."
    assert "POLICY_DENIED" in json.dumps(script.asked[1][1]["messages"][-1])


async def test_what_ends_the_attempt_passes_through_the_model_unchanged() -> None:
    def stopped(_: dict[str, Any]) -> Any:
        raise AgentError("come back later", error_class="MODEL_BUSY", retry_after=30)

    script = Script([calls("math_add", {"a": 1, "b": 2})], tool=stopped)
    with pytest.raises(AgentError) as raised:
        await script.run()
    assert (raised.value.error_class, raised.value.retry_after) == ("MODEL_BUSY", 30)


async def test_a_model_gives_work_to_another_agent_in_the_version_that_its_own_names() -> None:
    script = Script([calls("ask_writer", {"topic": "rails"}), says("Done.")])
    assert await script.run() == "Done."
    assert script.called == [("writer 1.2.0", {"topic": "rails"})]
    assert script.asked[1][1]["messages"][-1]["content"] == "On rails."
    offered = {each["function"]["name"]: each["function"] for each in script.asked[0][1]["tools"]}
    assert offered["ask_writer"]["description"] == "Writes."
    assert offered["ask_writer"]["parameters"]["required"] == ["topic"]


async def test_work_that_does_not_fit_the_other_agent_goes_back_to_the_model_and_to_nobody_else() -> None:
    script = Script([calls("ask_writer", {"topic": 7}), says("Without it.")])
    assert await script.run() == "Without it."
    assert script.called == []
    assert "topic" in script.asked[1][1]["messages"][-1]["content"]


async def test_a_child_that_failed_is_told_to_the_model_which_may_go_on() -> None:
    def fails(_: dict[str, Any]) -> Any:
        raise ChildFailed("no ink", error_class="NoInk", task_id="t", repeatable=True)

    script = Script([calls("ask_writer", {"topic": "rails"}), says("Without it.")], child=fails)
    assert await script.run() == "Without it."
    assert "NoInk: no ink" in script.asked[1][1]["messages"][-1]["content"]


def test_tools_get_names_that_the_protocol_takes_and_no_two_alike() -> None:
    assert function_names(["a.b", "a-b", "a_b", "x" * 80, "x" * 90]) == [
        "a_b",
        "a-b",
        "a_b_2",
        "x" * 64,
        f"{'x' * 60}_2",
    ]


def test_a_budget_without_limits_of_its_own_has_those_of_the_house() -> None:
    budget = Budget.of(LlmRuntime())
    assert (budget.max_steps, budget.max_tokens, budget.max_cost_micros) == (20, 200_000, 0)


def test_other_calls_in_between_begin_the_count_anew() -> None:
    guard = LoopGuard()
    assert [guard.hint("t", {"n": n}) for n in (1, 1, 2, 1, 1)] == [None] * 5
