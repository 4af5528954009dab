"""A model agent as pydantic-ai runs it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
from openai import AsyncOpenAI
from pydantic_ai import (
    Agent,
    ModelRetry,
    StructuredDict,
    Tool,
    ToolOutput,
    UnexpectedModelBehavior,
    UsageLimits,
)
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

from interlock.agent import AgentContext, AgentError, ToolError, ToolRefused
from interlock.registry.v1.agent_pb2 import LlmRuntime
from svc_kit.json_schema import Schema, compile_schema
from worker_svc.llm.budget import Budget
from worker_svc.llm.guard import LoopGuard
from worker_svc.llm.transport import BASE_URL, CallModel, JournalTransport

OUTPUT_INVALID = "MODEL_OUTPUT_INVALID"
# How often a model is asked again for a result that fits.
_RETRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTool:
    """A tool as the model is told of it."""

    name: str
    description: str
    input_schema: dict[str, Any]


async def run_agent(
    runtime: LlmRuntime,
    *,
    context: AgentContext,
    call_model: CallModel,
    tools: Sequence[BoundTool],
    output_schema_json: str,
    task_input: Any,
) -> Any:
    """The model's result: as the output schema says, or a text where there is none.

    Raises AgentError: BUDGET_EXCEEDED, AGENT_LOOP, MODEL_OUTPUT_INVALID, or as `call_model` does.
    """
    guard = LoopGuard()
    transport = JournalTransport(call_model, Budget.of(runtime))
    async with httpx2.AsyncClient(transport=transport) as http:
        agent: Agent[object, Any] = Agent(
            _model(runtime, http),
            output_type=_output(output_schema_json),
            instructions=runtime.instructions,
            tools=[
                _tool(name, tool, context, guard)
                for name, tool in zip(function_names([tool.name for tool in tools]), tools, strict=True)
            ],
            retries=_RETRIES,
            model_settings=_settings(runtime),
        )
        if output_schema_json:
            schema = compile_schema(output_schema_json)
            agent.output_validator(lambda output: _checked(output, schema))
        try:
            ran = await agent.run(
                json.dumps(task_input, ensure_ascii=False), usage_limits=UsageLimits(request_limit=None)
            )
        except UnexpectedModelBehavior as error:
            raise AgentError(str(error), error_class=OUTPUT_INVALID, retryable=False) from error
    return ran.output


def _model(runtime: LlmRuntime, http: httpx2.AsyncClient) -> OpenAIChatModel:
    # No credential: the gateway has it. Nothing is repeated here: the journal knows what may be.
    client = AsyncOpenAI(base_url=BASE_URL, api_key="held-by-the-gateway", max_retries=0, http_client=http)
    # Strict tool definitions are one provider's; most servers of this protocol refuse or ignore them.
    profile = OpenAIModelProfile(openai_supports_strict_tool_definition=False)
    return OpenAIChatModel(runtime.model, provider=OpenAIProvider(openai_client=client), profile=profile)


def _settings(runtime: LlmRuntime) -> ModelSettings:
    return (
        ModelSettings(temperature=runtime.temperature) if runtime.HasField("temperature") else ModelSettings()
    )


def _output(schema_json: str) -> Any:
    if not schema_json:
        return str
    schema = json.loads(schema_json)
    described = StructuredDict(schema, name="result", description="The result of the task.")
    return ToolOutput(described, name="result")


def _checked(output: Any, schema: Schema) -> Any:
    """The result; one that does not fit goes back to the model with what is wrong."""
    found = schema.violations(output, limit=10)
    if found:
        wrong = "; ".join(f"{each.field or 'the result'} {each.message}" for each in found)
        raise ModelRetry(f"The result does not fit its schema: {wrong}")
    return output


def function_names(tools: Sequence[str]) -> list[str]:
    """Names under which the protocol takes these tools as functions: no dots, 64 characters, no two alike."""
    names: list[str] = []
    for tool in tools:
        wanted = re.sub(r"[^A-Za-z0-9_-]", "_", tool)[:64]
        name, number = wanted, 1
        while name in names:
            number += 1
            name = f"{wanted[:60]}_{number}"
        names.append(name)
    return names


def _tool(function: str, tool: BoundTool, context: AgentContext, guard: LoopGuard) -> Tool[object]:
    async def call(**arguments: Any) -> Any:
        hint = guard.hint(tool.name, arguments)
        if hint is not None:
            return {"error": hint}
        try:
            return await context.call_tool(tool.name, arguments)
        except (ToolError, ToolRefused) as error:
            # The model may find another way; its budget bounds how often.
            return {"error": f"{error.error_class}: {error}"}

    return Tool.from_schema(
        call,
        name=function,
        description=tool.description,
        json_schema=tool.input_schema,
        # One after the other, so that each step has the same key in every attempt.
        sequential=True,
    )
