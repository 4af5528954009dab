"""Step 4: the agent version lists the tool, both may be used, and the tool is as it was pinned."""

from typing import NamedTuple, Protocol

import grpc

from gateway_svc.errors import definition_changed, not_active, registry_away, stale, tool_not_bound
from gateway_svc.http_tool import HttpTool
from gateway_svc.pipeline.pending import Pending, Tool
from gateway_svc.tool_call import Asked, CallKind
from gateway_svc.verdicts import Check
from interlock.registry.v1 import agent_pb2, tool_pb2
from svc_kit.errors import DomainError

MAX_SILENCE_SECONDS = 10.0

_DEFAULT_SECONDS = 5.0
_DEFAULT_MEMORY_BYTES = 256 * 1024 * 1024
_MAX_RESULT_BYTES = 256 * 1024


class Registry(Protocol):
    """What this step asks of the live copy of the registry."""

    @property
    def ready(self) -> bool:
        """Whether all of it has been received once."""

    def age(self) -> float:
        """Seconds since it was last heard."""

    def agent(self, tenant: str, name: str) -> agent_pb2.Agent | None:
        """The agent."""

    def agent_version(self, tenant: str, name: str, version: str) -> agent_pb2.AgentVersion | None:
        """One version of it."""

    def tool(self, tenant: str, name: str) -> tool_pb2.Tool | None:
        """The tool."""

    def tool_version(self, tenant: str, name: str, version: str) -> tool_pb2.ToolVersion | None:
        """One version of it."""

    async def fetch_agent_version(
        self, tenant: str, name: str, version: str
    ) -> tuple[agent_pb2.Agent, agent_pb2.AgentVersion] | None:
        """Take an agent and one of its versions into the copy; None when there is no such version."""

    async def fetch_tool_version(
        self, tenant: str, name: str, version: str
    ) -> tuple[tool_pb2.Tool, tool_pb2.ToolVersion] | None:
        """Take a tool and one of its versions into the copy; None when there is no such version."""


class SwitchedOff(NamedTuple):
    """Something that no call may use until it is enabled again."""

    kind: str
    name: str


class Binding:
    """Asks the registry's live copy; refuses to decide on an old one."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def catch_up(self, asked: Asked) -> None:
        """Ask the registry itself for what was published a moment ago; raises POLICY_STALE if that fails.

        What the copy lacks may be on its way to it, and a refusal would be the end of the task.
        """
        registry = self._registry
        agent_key = (asked.tenant, asked.agent, asked.agent_version)
        tool_key = (asked.tenant, asked.tool, asked.tool_version)
        try:
            agent_version = registry.agent_version(*agent_key)
            if agent_version is None or registry.agent(asked.tenant, asked.agent) is None:
                fetched = await registry.fetch_agent_version(*agent_key)
                agent_version = fetched[1] if fetched is not None else None
            # Of a tool that the agent does not list nothing is asked: unbound and unknown answer alike.
            bound = _binding(agent_version, asked.tool) if agent_version is not None else None
            if bound is not None and (
                registry.tool_version(*tool_key) is None or registry.tool(asked.tenant, asked.tool) is None
            ):
                await registry.fetch_tool_version(*tool_key)
        except grpc.aio.AioRpcError as error:
            raise registry_away() from error

    def check(self, pending: Pending) -> Tool:
        """The tool; raises POLICY_STALE, TOOL_NOT_BOUND, NOT_ACTIVE or TOOL_DEFINITION_CHANGED."""
        self._check_fresh()
        try:
            version = self._find(pending.asked)
        except DomainError as error:
            pending.verdicts.failed(Check.BINDING, f"{error.message[:1].upper()}{error.message[1:]}.")
            raise
        asked = pending.asked
        pending.verdicts.passed(
            Check.BINDING,
            f"Agent {asked.agent} {asked.agent_version} lists tool {asked.tool} {asked.tool_version}.",
        )
        return _tool(version)

    def may_repeat(self, asked: Asked) -> bool:
        """Whether running the tool twice does no harm, so that an unknown outcome may be tried again."""
        version = self._registry.tool_version(asked.tenant, asked.tool, asked.tool_version)
        return version is not None and version.spec.side_effect in (
            tool_pb2.SIDE_EFFECT_PURE,
            tool_pb2.SIDE_EFFECT_IDEMPOTENT,
        )

    def _check_fresh(self) -> None:
        age = self._registry.age() if self._registry.ready else float("inf")
        if age > MAX_SILENCE_SECONDS:
            raise stale("registry", age)

    def _find(self, asked: Asked) -> tool_pb2.ToolVersion:
        registry = self._registry
        agent = registry.agent(asked.tenant, asked.agent)
        agent_version = registry.agent_version(asked.tenant, asked.agent, asked.agent_version)
        tool = registry.tool(asked.tenant, asked.tool)
        version = registry.tool_version(asked.tenant, asked.tool, asked.tool_version)
        bound = _binding(agent_version, asked.tool) if agent_version is not None else None
        if agent is None or agent_version is None or bound is None or tool is None or version is None:
            raise tool_not_bound(asked)
        off = switched_off(registry, asked)
        if off is not None:
            raise not_active(off.kind, off.name)
        pinned = (bound.version, bound.digest)
        if (asked.tool_version, asked.tool_digest) != pinned or (version.version, version.digest) != pinned:
            raise definition_changed(asked)
        if agent_version.digest != asked.agent_digest:
            raise definition_changed(asked)
        return version


def switched_off(registry: Registry, asked: Asked) -> SwitchedOff | None:
    """What somebody disabled: the agent, one of those that it works for, or the tool."""
    agents = [(asked.tenant, asked.agent), *((above.tenant, above.agent) for above in asked.ancestors)]
    for tenant, name in agents:
        agent = registry.agent(tenant, name)
        if agent is not None and agent.status != tool_pb2.STATUS_ACTIVE:
            return SwitchedOff("agent", name)
    if asked.kind is CallKind.TOOL:
        tool = registry.tool(asked.tenant, asked.tool)
        if tool is not None and tool.status != tool_pb2.STATUS_ACTIVE:
            return SwitchedOff("tool", asked.tool)
    return None


def _binding(version: agent_pb2.AgentVersion, tool: str) -> agent_pb2.ToolBinding | None:
    return next((binding for binding in version.spec.tools if binding.tool == tool), None)


def _tool(version: tool_pb2.ToolVersion) -> Tool:
    spec, limits = version.spec, version.spec.limits
    http = _http(spec.http) if spec.HasField("http") else None
    return Tool(
        digest=version.digest,
        source=spec.python.source,
        entrypoint=spec.python.entrypoint or "run",
        profile=spec.python.profile,
        input_schema_json=spec.input_schema_json,
        output_schema_json=spec.output_schema_json,
        wall_seconds=limits.timeout.ToTimedelta().total_seconds() or _DEFAULT_SECONDS,
        cpu_seconds=limits.cpu.ToTimedelta().total_seconds() or _DEFAULT_SECONDS,
        memory_bytes=limits.memory_bytes or _DEFAULT_MEMORY_BYTES,
        result_bytes=min(limits.result_bytes or _MAX_RESULT_BYTES, _MAX_RESULT_BYTES),
        requires_approval=spec.requires_approval,
        max_running=limits.max_running,
        max_per_minute=limits.max_calls_per_minute,
        connections=(http.connection,) if http is not None else tuple(spec.connections),
        http=http,
    )


def _http(http: tool_pb2.HttpTool) -> HttpTool:
    return HttpTool(
        connection=http.connection,
        method=http.method or "GET",
        path=http.path,
        query=dict(http.query),
        body=http.body,
    )
