"""Policies against the tools that they name, as the registry has them now."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

import grpc
import structlog

from gateway_svc.cedar.fit import flaws_of
from gateway_svc.cedar.text import ParsedPolicy
from gateway_svc.errors import registry_away
from gateway_svc.policy import Misfit
from interlock.registry.v1 import tool_pb2
from svc_kit.identity.principal import SYSTEM_TENANT

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0


class Tools(Protocol):
    """What is asked of the live copy of the registry."""

    def tool(self, tenant: str, name: str) -> tool_pb2.Tool | None:
        """The tool."""

    def tool_version(self, tenant: str, name: str, version: str) -> tool_pb2.ToolVersion | None:
        """One version of it."""

    async def fetch_tool_version(
        self, tenant: str, name: str, version: str
    ) -> tuple[tool_pb2.Tool, tool_pb2.ToolVersion] | None:
        """Take a tool and one of its versions into the copy; None when there is no such version."""


class Book(Protocol):
    """What is asked of the live copy of the policies."""

    def tenants(self) -> Sequence[str]:
        """Those that have policies."""

    def parsed(self, tenant: str) -> Mapping[str, ParsedPolicy]:
        """A tenant's own policies, by their ids."""


class PolicyFit:
    """Looks at policies that name one tool, in the tenant whose tool it is."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def misfits(self, tenant: str, policy: ParsedPolicy, tool_version: str = "") -> list[Misfit]:
        """With a version of the tool, by default the newest; none for a tool that is not known here."""
        # Policies of tenant `system` speak of the tools of all tenants.
        if policy.tool is None or tenant == SYSTEM_TENANT:
            return []
        tool = self._tools.tool(tenant, policy.tool)
        wanted = tool_version or (tool.latest_version if tool is not None else "")
        version = self._tools.tool_version(tenant, policy.tool, wanted)
        if version is None:
            return []
        return [
            Misfit(tool=policy.tool, tool_version=wanted, message=flaw.message, certain=flaw.certain)
            for flaw in flaws_of(policy, version.spec.input_schema_json)
        ]

    async def learn(self, tenant: str, tool: str, tool_version: str) -> bool:
        """Whether there is such a version; one that was published a moment ago is asked for.

        Raises POLICY_STALE when the registry is away.
        """
        if self._tools.tool_version(tenant, tool, tool_version) is not None:
            return True
        try:
            return await self._tools.fetch_tool_version(tenant, tool, tool_version) is not None
        except grpc.aio.AioRpcError as error:
            raise registry_away() from error


class NewToolVersions:
    """Says aloud where a new version of a tool leaves a stored policy behind."""

    def __init__(self, fit: PolicyFit, book: Book, tools: Tools) -> None:
        self._fit = fit
        self._book = book
        self._tools = tools
        self._seen: dict[tuple[str, str, str], str] = {}

    async def follow(self) -> None:
        """For ever; ends only by cancellation."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Look at each policy whose tool has a version that it was not looked at with."""
        for tenant in self._book.tenants():
            for policy_id, policy in self._book.parsed(tenant).items():
                tool = self._tools.tool(tenant, policy.tool) if policy.tool is not None else None
                key = (tenant, policy_id, policy.tool or "")
                if tool is None or self._seen.get(key) == tool.latest_version:
                    continue
                self._seen[key] = tool.latest_version
                for misfit in self._fit.misfits(tenant, policy):
                    log.warning(
                        "policy_does_not_fit_tool",
                        tenant=tenant,
                        policy_id=policy_id,
                        tool=misfit.tool,
                        tool_version=misfit.tool_version,
                        why=misfit.message,
                    )
