"""A consumer's live copy of the registry, so that no hot path asks it over the network."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Self

import grpc

from interlock.common.cancellation import being_cancelled, end
from interlock.registry.v1 import (
    agent_pb2,
    registry_service_pb2,
    registry_service_pb2_grpc,
    tool_pb2,
    tool_service_pb2,
    tool_service_pb2_grpc,
)

_LOG = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 1.0
_FETCH_SECONDS = 2.0
# The registry sends a bookmark each second; three missing in a row mean a dead peer that TCP has not noticed.
_SILENCE_SECONDS = 3.5


class RegistryFeed:
    """Follows WatchRegistry over an internal channel and answers from memory.

    The registry deletes nothing, so a stream that begins again only overwrites what is known: answers stay
    available, and merely grow old, while the registry is away. `age` tells how old.
    """

    def __init__(self, channel: grpc.aio.Channel, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._tools_service = tool_service_pb2_grpc.ToolServiceStub(channel)
        self._monotonic = monotonic
        self._agents: dict[tuple[str, str], agent_pb2.Agent] = {}
        self._agent_versions: dict[tuple[str, str, str], agent_pb2.AgentVersion] = {}
        self._tools: dict[tuple[str, str], tool_pb2.Tool] = {}
        self._tool_versions: dict[tuple[str, str, str], tool_pb2.ToolVersion] = {}
        self._loaded = asyncio.Event()
        self._last_message: float | None = None
        self._changed: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def start(self) -> None:
        """Begin to follow, in a task of the running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="registry-feed")

    async def close(self) -> None:
        """Stop following; what is known stays readable."""
        if self._task is not None:
            await end(self._task)
            self._task = None

    @property
    def ready(self) -> bool:
        """True once the whole registry has been received at least once."""
        return self._loaded.is_set()

    async def wait_ready(self) -> None:
        """Return when the whole registry has been received once."""
        await self._loaded.wait()

    def age(self) -> float:
        """Seconds since the registry was last heard; infinite before the first message."""
        return float("inf") if self._last_message is None else self._monotonic() - self._last_message

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back, on the loop, after each change that is not a bookmark."""
        self._changed.append(callback)

    def agent(self, tenant: str, name: str) -> agent_pb2.Agent | None:
        """The agent, or None when the copy does not hold it."""
        return self._agents.get((tenant, name))

    def agent_version(self, tenant: str, name: str, version: str = "") -> agent_pb2.AgentVersion | None:
        """One version of an agent, the newest for an empty version; None when the copy does not hold it."""
        if not version:
            agent = self._agents.get((tenant, name))
            version = agent.latest_version if agent is not None else ""
        return self._agent_versions.get((tenant, name, version))

    def tool(self, tenant: str, name: str) -> tool_pb2.Tool | None:
        """The tool, or None when the copy does not hold it."""
        return self._tools.get((tenant, name))

    def tool_version(self, tenant: str, name: str, version: str) -> tool_pb2.ToolVersion | None:
        """One version of a tool; None when the copy does not hold it."""
        return self._tool_versions.get((tenant, name, version))

    async def fetch_agent_version(
        self, tenant: str, name: str, version: str = ""
    ) -> tuple[agent_pb2.Agent, agent_pb2.AgentVersion] | None:
        """Ask the registry itself, for what was published a moment ago; None when it does not exist.

        An empty version means the newest. Raises grpc.aio.AioRpcError for every failure but NOT_FOUND.
        """
        metadata = (("x-interlock-tenant", tenant),)
        try:
            got = await self._registry.GetAgent(
                registry_service_pb2.GetAgentRequest(name=name), metadata=metadata, timeout=_FETCH_SECONDS
            )
            found = await self._registry.GetAgentVersion(
                registry_service_pb2.GetAgentVersionRequest(
                    agent=name, version=version or got.agent.latest_version
                ),
                metadata=metadata,
                timeout=_FETCH_SECONDS,
            )
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        known = self._agents.get((tenant, name))
        if known is None or _is_newer(got.agent, known):
            self._agents[tenant, name] = got.agent
        self._remember_agent_version(tenant, found.agent_version)
        return got.agent, found.agent_version

    async def fetch_tool_version(
        self, tenant: str, name: str, version: str
    ) -> tuple[tool_pb2.Tool, tool_pb2.ToolVersion] | None:
        """Ask the registry itself for a tool and one of its versions; None when either does not exist.

        Raises grpc.aio.AioRpcError for every failure but NOT_FOUND.
        """
        metadata = (("x-interlock-tenant", tenant),)
        try:
            got = await self._tools_service.GetTool(
                tool_service_pb2.GetToolRequest(name=name), metadata=metadata, timeout=_FETCH_SECONDS
            )
            found = await self._tools_service.GetToolVersion(
                tool_service_pb2.GetToolVersionRequest(tool=name, version=version),
                metadata=metadata,
                timeout=_FETCH_SECONDS,
            )
        except grpc.aio.AioRpcError as exc:
            if exc.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        known = self._tools.get((tenant, name))
        if known is None or _is_newer(got.tool, known):
            self._tools[tenant, name] = got.tool
        self._remember_tool_version(tenant, found.tool_version)
        return got.tool, found.tool_version

    async def _follow(self) -> None:
        retry = _FIRST_RETRY_SECONDS
        while True:
            try:
                stream = self._registry.WatchRegistry(registry_service_pb2.WatchRegistryRequest())
                try:
                    while True:
                        async with asyncio.timeout(_SILENCE_SECONDS):
                            message = await stream.read()
                        if not isinstance(message, registry_service_pb2.WatchRegistryResponse):
                            break  # grpc's mark for the end of a stream
                        self._apply(message)
                        retry = _FIRST_RETRY_SECONDS
                finally:
                    stream.cancel()
            except (grpc.aio.AioRpcError, TimeoutError) as exc:
                _LOG.debug("registry feed broke: %s", exc)
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                _LOG.debug("registry feed broke: its call was cancelled from below")
            except Exception:  # noqa: BLE001 (a message or a callback that fails must not end the feed)
                _LOG.exception("registry feed failed; begins again")
            await asyncio.sleep(retry)
            retry = min(retry * 2, _LAST_RETRY_SECONDS)

    def _apply(self, message: registry_service_pb2.WatchRegistryResponse) -> None:
        self._last_message = self._monotonic()
        kind = message.WhichOneof("change")
        if kind == "bookmark":
            self._loaded.set()
            return
        if kind == "agent":
            self._agents[message.tenant, message.agent.name] = message.agent
        elif kind == "agent_version":
            self._remember_agent_version(message.tenant, message.agent_version)
        elif kind == "tool":
            self._tools[message.tenant, message.tool.name] = message.tool
        elif kind == "tool_version":
            self._remember_tool_version(message.tenant, message.tool_version)
        for callback in self._changed:
            callback()

    def _remember_agent_version(self, tenant: str, found: agent_pb2.AgentVersion) -> None:
        self._agent_versions[tenant, found.agent, found.version] = found

    def _remember_tool_version(self, tenant: str, found: tool_pb2.ToolVersion) -> None:
        self._tool_versions[tenant, found.tool, found.version] = found


def _is_newer(answer: agent_pb2.Agent | tool_pb2.Tool, known: agent_pb2.Agent | tool_pb2.Tool) -> bool:
    """Whether an answer was not overtaken by the feed: what was disabled meanwhile must stay so."""
    return answer.update_time.ToNanoseconds() >= known.update_time.ToNanoseconds()
