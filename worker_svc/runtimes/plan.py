"""The plan runtime: tool calls and child tasks in order, their inputs mapped from what is known by then.

Deterministic.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jmespath

from interlock.agent import AgentError, ChildTask
from interlock.registry.v1 import agent_pb2


class Actions(Protocol):
    """All that a plan needs of its context."""

    async def call_tool(self, tool: str, arguments: Mapping[str, Any], *, key: str = "") -> Any:
        """As AgentContext.call_tool."""

    async def submit(self, agent: str, task_input: Mapping[str, Any], *, key: str = "") -> ChildTask:
        """As AgentContext.submit."""


async def run_plan(plan: agent_pb2.PlanRuntime, context: Actions, task_input: dict[str, Any]) -> Any:
    """The plan's result. Raises AgentError MAPPING_FAILED when an expression does not fit its document."""
    results: dict[str, Any] = {}
    document = {"input": task_input, "steps": results}
    for step in plan.steps:
        arguments = {}
        for name in sorted(step.arguments):
            value = _search(step.arguments[name], document, f"step {step.key}, argument {name}")
            if value is not None:
                arguments[name] = value
        if step.agent:
            child = await context.submit(step.agent, arguments, key=step.key)
            results[step.key] = await child.result()
        else:
            results[step.key] = await context.call_tool(step.tool, arguments, key=step.key)
    if plan.result:
        return _search(plan.result, document, "result")
    return results[plan.steps[-1].key]


def _search(expression: str, document: dict[str, Any], where: str) -> Any:
    try:
        return jmespath.search(expression, document)
    except jmespath.exceptions.JMESPathError as error:
        raise AgentError(f"{where}: {error}", error_class="MAPPING_FAILED", retryable=False) from error
