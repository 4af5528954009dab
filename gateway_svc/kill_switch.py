"""The kill switch: what runs ends when its tool, its agent or its connection is switched off."""

from collections.abc import Collection, Mapping
from typing import Protocol

import structlog

from gateway_svc.connection import Connection, ConnectionKey
from gateway_svc.pipeline.binding import Registry, switched_off
from gateway_svc.tool_call import Asked, CallKey, CallKind
from svc_kit.errors import Unavailable
from svc_kit.wakeup import Subscription

log = structlog.get_logger(__name__)

TOPIC = "connections"
# A call may register in the very moment in which the others are ended.
_LOOK_SECONDS = 0.4


class Connections(Protocol):
    """What is asked of the store, which says what it does."""

    async def find_all(self, keys: Collection[ConnectionKey]) -> Mapping[ConnectionKey, Connection]: ...


class Running(Protocol):
    """Everything of this process that runs for a call."""

    def calls(self) -> list[tuple[Asked, frozenset[str]]]: ...
    def cancel(self, key: CallKey, why: str) -> None: ...


class KillSwitch:
    """New calls are refused by the checks; this ends those that have passed them."""

    def __init__(self, registry: Registry, connections: Connections, running: Running) -> None:
        self._registry = registry
        self._connections = connections
        self._running = running

    def registry_changed(self) -> None:
        """End the calls of agents and tools that are disabled now; whom such an agent gave work ends too."""
        for asked, _ in self._running.calls():
            off = switched_off(self._registry, asked)
            if off is not None:
                self._running.cancel(asked.key, f"{off.kind} {off.name} was disabled")

    async def follow(self, woken: Subscription) -> None:
        """For ever: end the calls through connections that are closed to them; ends by cancellation.

        Those of agents and tools too that began to run just after the others were ended.
        """
        while True:
            await woken.wait(_LOOK_SECONDS)
            try:
                self.registry_changed()
                await self._connections_changed()
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("kill_switch_failed")

    async def _connections_changed(self) -> None:
        used = [
            (asked, ConnectionKey(asked.tenant, each))
            for asked, connections in self._running.calls()
            for each in connections
        ]
        if not used:
            return
        stored = await self._connections.find_all({key for _, key in used})
        for asked, key in used:
            why = _closed(asked, stored.get(key))
            if why:
                self._running.cancel(asked.key, f"connection {key.connection_id} {why}")


def _closed(asked: Asked, connection: Connection | None) -> str:
    """Why a call may use a connection no more; empty when it may."""
    if connection is None:
        return "was deleted"
    if connection.content.disabled:
        return "was disabled"
    if asked.kind is CallKind.TOOL and asked.tool_digest not in connection.content.tool_digests:
        return "lists the tool no more"
    if asked.kind is CallKind.MODEL:
        agents = [asked.agent, *(above.agent for above in asked.ancestors)]
        if not set(agents) <= set(connection.content.agents):
            return "lists the agent, or one that it works for, no more"
    return ""
