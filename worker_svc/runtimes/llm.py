"""The llm runtime: a language model that works with the tools of its agent version until it has a result."""

import asyncio
import importlib
import json
from typing import Any

from interlock.client.registry_feed import RegistryFeed
from interlock.registry.v1 import agent_pb2, tool_pb2
from worker_svc.errors import AgentMissing
from worker_svc.patience import until_answered
from worker_svc.steps import Journal


async def run_llm(
    spec: agent_pb2.AgentSpec, journal: Journal, registry: RegistryFeed, *, tenant: str, task_input: Any
) -> Any:
    """The model's result; see `worker_svc.llm.agent.run_agent`."""
    # It takes seconds to load, which the other agents of this process must not wait for.
    agent = await asyncio.to_thread(importlib.import_module, "worker_svc.llm.agent")
    tools, agents = [], []
    for tool in spec.tools:
        described = (await _tool(registry, tenant, tool)).spec
        tools.append(
            agent.BoundTool(
                name=tool.tool,
                description=described.description,
                input_schema=json.loads(described.input_schema_json),
            )
        )
    for helper in spec.llm.agents:
        other = (await _agent(registry, tenant, helper)).spec
        agents.append(
            agent.BoundAgent(
                name=helper.agent,
                version=helper.version,
                description=other.description,
                input_schema_json=other.input_schema_json,
            )
        )

    async def call_model(step_key: str, asked: dict[str, Any]) -> Any:
        return await journal.call_model(spec.llm.connection, asked, key=step_key)

    return await agent.run_agent(
        spec.llm,
        context=journal,
        call_model=call_model,
        tools=tools,
        agents=agents,
        output_schema_json=spec.output_schema_json,
        task_input=task_input,
    )


async def _tool(registry: RegistryFeed, tenant: str, binding: agent_pb2.ToolBinding) -> tool_pb2.ToolVersion:
    key = (tenant, binding.tool, binding.version)
    found = registry.tool_version(*key)
    if found is None:
        fetched = await until_answered(lambda: registry.fetch_tool_version(*key))
        found = fetched[1] if fetched is not None else None
    if found is None or found.digest != binding.digest:
        raise _missing("tool", binding.tool, binding.version)
    return found


async def _agent(
    registry: RegistryFeed, tenant: str, binding: agent_pb2.AgentBinding
) -> agent_pb2.AgentVersion:
    key = (tenant, binding.agent, binding.version)
    found = registry.agent_version(*key)
    if found is None:
        fetched = await until_answered(lambda: registry.fetch_agent_version(*key))
        found = fetched[1] if fetched is not None else None
    if found is None or found.digest != binding.digest:
        raise _missing("agent", binding.agent, binding.version)
    return found


def _missing(kind: str, name: str, version: str) -> AgentMissing:
    return AgentMissing(f"the registry does not hold {kind} {name} {version} as it was bound")
