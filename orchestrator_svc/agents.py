"""What the orchestrator asks of agents: which version a task runs, and what it is bound to."""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import grpc

from interlock.common.time_limits import MODEL_SECONDS
from interlock.registry.v1 import agent_pb2, tool_pb2
from orchestrator_svc.errors import (
    agent_not_active,
    agent_not_found,
    agent_version_not_found,
    connection_not_bound,
    registry_unavailable,
    tool_not_bound,
)
from orchestrator_svc.records import AgentPin, Isolation, StepKind
from orchestrator_svc.retry import RetryPolicy

DEFAULT_START_TO_CLOSE = 600.0
DEFAULT_TOOL_SECONDS = 5.0


class Registry(Protocol):
    """A live copy of the registry; `interlock.client.registry_feed` says what each does."""

    @property
    def ready(self) -> bool: ...
    def agent(self, tenant: str, name: str) -> agent_pb2.Agent | None: ...
    def agent_version(self, tenant: str, name: str, version: str = "") -> agent_pb2.AgentVersion | None: ...
    def tool_version(self, tenant: str, name: str, version: str) -> tool_pb2.ToolVersion | None: ...
    async def fetch_agent_version(
        self, tenant: str, name: str, version: str = ""
    ) -> tuple[agent_pb2.Agent, agent_pb2.AgentVersion] | None: ...


class AgentUnknownError(Exception):
    """The copy does not hold the agent version that a task has pinned; `Agents.fetch` gets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenAgent:
    """An agent version that a new task may run."""

    pin: AgentPin
    input_schema_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundTool:
    """A tool as an agent version has locked it; `seconds` is the longest time of one call."""

    name: str
    version: str
    digest: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundConnection:
    """The model connection that an agent version names; `seconds` is the longest time of one call."""

    name: str
    seconds: float


Bound: TypeAlias = BoundTool | BoundConnection


class Agents:
    """Answers from the copy; asks the registry itself once where the copy does not know."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def choose(self, tenant: str, name: str, version: str) -> ChosenAgent:
        """The agent version for a new task; an empty `version` means the newest.

        Raises AGENT_NOT_FOUND, AGENT_VERSION_NOT_FOUND, NOT_ACTIVE or REGISTRY_UNAVAILABLE.
        """
        if not self._registry.ready:
            raise registry_unavailable()
        agent = self._registry.agent(tenant, name)
        found = self._registry.agent_version(tenant, name, version)
        if agent is None or found is None:
            agent, found = await self._ask(tenant, name, version)
        if agent.status != tool_pb2.STATUS_ACTIVE:
            raise agent_not_active(name)
        return ChosenAgent(pin=_pin(found), input_schema_json=found.spec.input_schema_json)

    async def check_active(self, tenant: str, name: str) -> None:
        """Raises as `choose` when the agent takes no new tasks."""
        await self.choose(tenant, name, "")

    def bound(self, tenant: str, pin: AgentPin, kind: StepKind, name: str) -> Bound:
        """What a step of the pinned version may call, as the version has locked it.

        Raises TOOL_NOT_BOUND or CONNECTION_NOT_BOUND, and AgentUnknownError where the version is not known.
        """
        found = self._registry.agent_version(tenant, pin.name, pin.version)
        if found is None:
            raise AgentUnknownError
        # A digest that differs is another history of the registry: nothing of it is bound to this task.
        spec = found.spec if found.digest == pin.digest else agent_pb2.AgentSpec()
        if kind is StepKind.MODEL_CALL:
            if not spec.HasField("llm") or spec.llm.connection != name:
                raise connection_not_bound(pin.name, name)
            return BoundConnection(name=name, seconds=MODEL_SECONDS)
        for binding in spec.tools:
            if binding.tool == name:
                return BoundTool(
                    name=name,
                    version=binding.version,
                    digest=binding.digest,
                    seconds=self._tool_seconds(tenant, binding),
                )
        raise tool_not_bound(pin.name, name)

    async def fetch(self, tenant: str, pin: AgentPin) -> None:
        """Get a pinned version into the copy; REGISTRY_UNAVAILABLE when it cannot be had."""
        await self._ask(tenant, pin.name, pin.version)

    async def _ask(
        self, tenant: str, name: str, version: str
    ) -> tuple[agent_pb2.Agent, agent_pb2.AgentVersion]:
        try:
            found = await self._registry.fetch_agent_version(tenant, name, version)
        except grpc.aio.AioRpcError as error:
            raise registry_unavailable() from error
        if found is not None:
            return found
        if version and self._registry.agent(tenant, name) is not None:
            raise agent_version_not_found(name, version)
        raise agent_not_found(name)

    def _tool_seconds(self, tenant: str, binding: agent_pb2.ToolBinding) -> float:
        tool = self._registry.tool_version(tenant, binding.tool, binding.version)
        if tool is None or not tool.spec.limits.HasField("timeout"):
            return DEFAULT_TOOL_SECONDS
        return tool.spec.limits.timeout.ToNanoseconds() / 1e9


def _pin(version: agent_pb2.AgentVersion) -> AgentPin:
    spec = version.spec
    return AgentPin(
        name=version.agent,
        version=version.version,
        digest=version.digest,
        isolation=_isolation(spec),
        retry=_retry(spec.retry),
        start_to_close=(
            spec.start_to_close_timeout.ToNanoseconds() / 1e9
            if spec.HasField("start_to_close_timeout")
            else DEFAULT_START_TO_CLOSE
        ),
    )


def _isolation(spec: agent_pb2.AgentSpec) -> Isolation:
    if spec.WhichOneof("runtime") != "python":
        return Isolation.PLAN
    return Isolation.SANDBOXED if spec.python.source else Isolation.TRUSTED


def _retry(policy: agent_pb2.RetryPolicy) -> RetryPolicy:
    given = RetryPolicy()
    return RetryPolicy(
        max_failures=policy.max_failures or given.max_failures,
        initial=(
            policy.initial_interval.ToNanoseconds() / 1e9
            if policy.HasField("initial_interval")
            else given.initial
        ),
        maximum=(
            policy.maximum_interval.ToNanoseconds() / 1e9
            if policy.HasField("maximum_interval")
            else given.maximum
        ),
        coefficient=policy.coefficient or given.coefficient,
        non_retryable=tuple(policy.non_retryable_classes),
    )
