"""Steps 4 and 6 for models: the agent version names the connection, and the connection lists the agent."""

from typing import Protocol

import grpc

from gateway_svc.connection import Connection, ConnectionKind
from gateway_svc.errors import (
    connection_not_bound,
    definition_changed,
    model_ancestor_denied,
    not_active,
    registry_away,
    stale,
)
from gateway_svc.pipeline.binding import MAX_SILENCE_SECONDS, Registry, switched_off
from gateway_svc.pipeline.pending import Model, Pending
from gateway_svc.tool_call import Asked
from gateway_svc.verdicts import Check
from interlock.registry.v1 import agent_pb2
from svc_kit.errors import DomainError


class Connections(Protocol):
    """What this step asks of the connections."""

    async def find(self, tenant: str, connection_id: str) -> Connection | None:
        """One connection, as it stands now."""


class ModelBinding:
    """Both sides must agree; whoever is refused does not learn which of them did not.

    A child task may do only what every agent above it may do too: the connection must list each of them.
    """

    def __init__(self, registry: Registry, connections: Connections) -> None:
        self._registry = registry
        self._connections = connections

    async def check(self, pending: Pending) -> Model:
        """The model.

        Raises POLICY_STALE, CONNECTION_NOT_BOUND, ANCESTOR_DENIED, NOT_ACTIVE or TOOL_DEFINITION_CHANGED.
        """
        asked = pending.asked
        spec = await self._spec(pending)
        if spec is None or spec.llm.connection != asked.tool:
            pending.verdicts.failed(
                Check.BINDING, f"Agent {asked.agent} {asked.agent_version} does not name {asked.tool}."
            )
            raise connection_not_bound(asked)
        name = spec.llm.model
        pending.verdicts.passed(
            Check.BINDING,
            f"Agent {asked.agent} {asked.agent_version} names model {name} of connection {asked.tool}.",
        )
        stored = await self._connections.find(asked.tenant, asked.tool)
        if stored is None or stored.kind is not ConnectionKind.MODEL:
            return _refuse(pending, f"There is no model connection {asked.tool}.")
        if asked.agent not in stored.content.agents:
            return _refuse(pending, f"Connection {asked.tool} does not list agent {asked.agent}.")
        if name not in stored.content.models:
            return _refuse(pending, f"Connection {asked.tool} does not list model {name}.")
        for ancestor in asked.ancestors:
            if ancestor.agent not in stored.content.agents:
                pending.verdicts.failed(
                    Check.ALLOW,
                    f"Agent {asked.agent} works for agent {ancestor.agent}, which connection {asked.tool}"
                    " does not list.",
                )
                raise model_ancestor_denied(asked, ancestor.agent)
        if stored.content.disabled:
            pending.verdicts.failed(Check.ALLOW, f"Connection {asked.tool} is disabled.")
            raise not_active("connection", asked.tool)
        pending.verdicts.passed(Check.ALLOW, f"Connection {asked.tool} lists the agent and the model.")
        return Model(connection=stored, name=name)

    async def _spec(self, pending: Pending) -> agent_pb2.AgentSpec | None:
        registry, asked = self._registry, pending.asked
        age = registry.age() if registry.ready else float("inf")
        if age > MAX_SILENCE_SECONDS:
            raise stale("registry", age)
        try:
            agent, version = await self._find(asked)
            if agent is None or version is None:
                return None
            off = switched_off(registry, asked)
            if off is not None:
                raise not_active(off.kind, off.name)
            if version.digest != asked.agent_digest:
                raise definition_changed(asked)
        except DomainError as error:
            pending.verdicts.failed(Check.BINDING, f"{error.message[:1].upper()}{error.message[1:]}.")
            raise
        return version.spec

    async def _find(self, asked: Asked) -> tuple[agent_pb2.Agent | None, agent_pb2.AgentVersion | None]:
        """From the copy; what it lacks may be on its way to it, and is asked for."""
        key = (asked.tenant, asked.agent, asked.agent_version)
        agent = self._registry.agent(asked.tenant, asked.agent)
        version = self._registry.agent_version(*key)
        if agent is not None and version is not None:
            return agent, version
        try:
            fetched = await self._registry.fetch_agent_version(*key)
        except grpc.aio.AioRpcError as error:
            raise registry_away() from error
        return fetched if fetched is not None else (None, None)


def _refuse(pending: Pending, why: str) -> Model:
    pending.verdicts.failed(Check.ALLOW, why)
    raise connection_not_bound(pending.asked)
