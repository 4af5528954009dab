"""What the tests let a suite do: tools, agents whose plans call them, and policies that allow it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from interlock.client import Client
from interlock.gateway.v1 import policy_service_pb2
from interlock.registry.v1 import agent_pb2, registry_service_pb2, tool_pb2, tool_service_pb2
from tests.e2e.suite import RunningSuite

PURE = tool_pb2.SIDE_EFFECT_PURE
AT_MOST_ONCE = tool_pb2.SIDE_EFFECT_AT_MOST_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One tool and the agent that calls it; both bear the same name."""

    name: str
    source: str
    steps: int = 1
    """How often the plan calls the tool, each time with the task's whole input as arguments."""
    arguments: tuple[str, ...] = ()
    """Names of the tool's arguments, each of any type."""
    input_schema: Mapping[str, object] | None = None
    """In place of the one that `arguments` makes."""
    checked_early: bool = True
    """Whether the agent's own input has that schema too."""
    seconds: float = 5.0
    """The tool's time limit; 0 leaves it to the gateway."""
    cpu: float = 0
    """Its processor time; likewise."""
    side_effect: tool_pb2.SideEffect.ValueType = PURE
    failures: int = 1
    """After so many the task has failed."""
    capabilities: tuple[str, ...] = ("testing",)
    result: str = ""
    allowed: bool = True

    @property
    def tool(self) -> str:
        """Name of the tool."""
        return self.name.replace("-", "_")

    def tool_spec(self) -> tool_pb2.ToolSpec:
        """The tool's content."""
        schema = self.input_schema or {
            "type": "object",
            "properties": {name: {} for name in self.arguments},
            "required": list(self.arguments),
            "additionalProperties": False,
        }
        return tool_pb2.ToolSpec(
            title=self.name,
            description=f"What {self.name} does.",
            input_schema_json=json.dumps(schema),
            python=tool_pb2.PythonTool(source=self.source),
            limits=tool_pb2.ToolLimits(
                timeout=duration(self.seconds) if self.seconds else None,
                cpu=duration(self.cpu) if self.cpu else None,
            ),
            side_effect=self.side_effect,
        )

    def agent_spec(self) -> agent_pb2.AgentSpec:
        """The agent's content."""
        properties = self.input_schema.get("properties", {}) if self.input_schema else {}
        names = self.arguments or tuple(properties if isinstance(properties, dict) else ())
        schema = json.dumps(self.input_schema) if self.input_schema and self.checked_early else ""
        steps = [
            agent_pb2.PlanStep(
                key=f"s{number}", tool=self.tool, arguments={name: f"input.{name}" for name in names}
            )
            for number in range(1, self.steps + 1)
        ]
        return agent_pb2.AgentSpec(
            description=f"Calls {self.tool}.",
            capabilities=self.capabilities,
            tools=[agent_pb2.ToolBinding(tool=self.tool)],
            input_schema_json=schema,
            plan=agent_pb2.PlanRuntime(steps=steps, result=self.result),
            retry=agent_pb2.RetryPolicy(
                max_failures=self.failures, initial_interval=duration(0.2), maximum_interval=duration(1)
            ),
        )


def duration(seconds: float) -> Duration:
    """Seconds as the contract has them."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


async def publish(suite: RunningSuite, works: Iterable[Work]) -> None:
    """Create and publish, and allow what is to be allowed."""
    async with suite.client("SUPER_ADMIN") as client:
        for work in works:
            await publish_tool(client, work.tool, work.tool_spec())
            await publish_agent(client, work.name, work.agent_spec())
            if work.allowed:
                await allow(client, work.name, work.tool)


async def publish_tool(
    client: Client, name: str, spec: tool_pb2.ToolSpec, version: str = "1.0.0"
) -> tool_pb2.ToolVersion:
    """A new tool with its first version."""
    await client.call(client.tools.CreateTool, tool_service_pb2.CreateToolRequest(name=name))
    request = tool_service_pb2.PublishToolVersionRequest(tool=name, version=version, spec=spec)
    return (await client.call(client.tools.PublishToolVersion, request)).tool_version


async def publish_agent(
    client: Client, name: str, spec: agent_pb2.AgentSpec, version: str = "1.0.0"
) -> agent_pb2.AgentVersion:
    """A new agent with its first version."""
    await client.call(client.agents.CreateAgent, registry_service_pb2.CreateAgentRequest(name=name))
    request = registry_service_pb2.PublishAgentVersionRequest(agent=name, version=version, spec=spec)
    return (await client.call(client.agents.PublishAgentVersion, request)).agent_version


async def allow(client: Client, agent: str, tool: str, *, when: str = "", policy_id: str = "") -> None:
    """Store the policy that lets an agent call a tool."""
    condition = f" when {{ {when} }}" if when else ""
    cedar = (
        f'permit (principal == Interlock::Agent::"{agent}", action == Interlock::Action::"call_tool",'
        f' resource == Interlock::Tool::"{tool}"){condition};'
    )
    policy_id = policy_id or f"{agent}-may"
    policy = policy_service_pb2.Policy(policy_id=policy_id, cedar=cedar, description="For a test.")
    await client.call(client.policies.CreatePolicy, policy_service_pb2.CreatePolicyRequest(policy=policy))
