"""A model agent as pydantic-ai runs it."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
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

from interlock.agent import AgentContext, AgentError, ChildFailed, ToolError, ToolRefused
from interlock.registry.v1.agent_pb2 import LlmRuntime
from svc_kit.errors import Violation
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAgent:
    """An agent as the model is told of it: work that it is given becomes a child task."""

    name: str
    version: str
    description: str
    input_schema_json: str


# A function of the model's, done by us; what it returns, the model is told.
_Function = Callable[[dict[str, Any]], Awaitable[Any]]


async def run_agent(
    runtime: LlmRuntime,
    *,
    context: AgentContext,
    call_model: CallModel,
    tools: Sequence[BoundTool],
    agents: Sequence[BoundAgent],
    output_schema_json: str,
    task_input: Any,
) -> Any:
    """The model's result: as the output schema says, or a text where there is none.

    Raises AgentError: BUDGET_EXCEEDED, AGENT_LOOP, MODEL_OUTPUT_INVALID, or as `call_model` does.
    """
    transport = JournalTransport(call_model, Budget.of(runtime))
    async with httpx2.AsyncClient(transport=transport) as http:
        agent: Agent[object, Any] = Agent(
            _model(runtime, http),
            output_type=_output(output_schema_json),
            instructions=runtime.instructions,
            tools=_functions(tools, agents, context),
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
        raise ModelRetry(f"The result does not fit its schema: {_wrong(found, 'the result')}")
    return output


def _wrong(found: Iterable[Violation], whole: str) -> str:
    return "; ".join(f"{each.field or whole} {each.message}" for each in found)


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


def _functions(
    tools: Sequence[BoundTool], agents: Sequence[BoundAgent], context: AgentContext
) -> list[Tool[object]]:
    guard = LoopGuard()
    names = function_names([*(tool.name for tool in tools), *(f"ask_{agent.name}" for agent in agents)])
    functions = [
        *((tool.description, tool.input_schema, _calling(tool, context)) for tool in tools),
        *((agent.description, _schema(agent), _asking(agent, context)) for agent in agents),
    ]
    return [
        Tool.from_schema(
            _guarded(name, function, guard),
            name=name,
            description=description,
            json_schema=schema,
            # One after the other, so that each step has the same key in every attempt.
            sequential=True,
        )
        for name, (description, schema, function) in zip(names, functions, strict=True)
    ]


def _guarded(name: str, function: _Function, guard: LoopGuard) -> Callable[..., Awaitable[Any]]:
    async def call(**arguments: Any) -> Any:
        hint = guard.hint(name, arguments)
        return {"error": hint} if hint is not None else await function(arguments)

    return call


def _calling(tool: BoundTool, context: AgentContext) -> _Function:
    async def call(arguments: dict[str, Any]) -> Any:
        try:
            return await context.call_tool(tool.name, arguments)
        except (ToolError, ToolRefused) as error:
            # The model may find another way; its budget bounds how often.
            return {"error": f"{error.error_class}: {error}"}

    return call


def _asking(agent: BoundAgent, context: AgentContext) -> _Function:
    schema = compile_schema(agent.input_schema_json) if agent.input_schema_json else None

    async def ask(task_input: dict[str, Any]) -> Any:
        # Said to the model, who can mend it; told to the orchestrator it would be the end of the task.
        if schema is not None and (found := schema.violations(task_input, limit=10)):
            return {"error": f"The input does not fit its schema: {_wrong(found, 'the input')}"}
        child = await context.submit(agent.name, task_input, agent_version=agent.version)
        try:
            return await child.result()
        except ChildFailed as error:
            return {"error": f"{error.error_class}: {error}"}

    return ask


def _schema(agent: BoundAgent) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(agent.input_schema_json or '{"type": "object"}')
    return schema
