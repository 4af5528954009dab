"""The Python runtime, TRUSTED: an installed coroutine function that runs in the worker's own process."""

import inspect
from collections.abc import Awaitable, Callable, Collection
from importlib import metadata
from typing import Any

from interlock.agent import ENTRY_POINT_GROUP, AgentContext
from worker_svc.errors import AgentMissing

Agent = Callable[[AgentContext, dict[str, Any]], Awaitable[Any]]


class TrustedAgents:
    """The installed agents that this worker's configuration allows to run in its process."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = frozenset(allowed)
        self._loaded: dict[str, Agent] = {}

    def find(self, name: str) -> Agent:
        """The agent's function. Raises AgentMissing with the fix."""
        if name not in self._allowed:
            raise AgentMissing(
                f"the Python agent {name!r} would run with the worker's own rights and is not in this"
                " worker's allow-list; add it to INTERLOCK_WORKER_TRUSTED_AGENTS if you trust it"
            )
        if name not in self._loaded:
            self._loaded[name] = _load(name)
        return self._loaded[name]


def _load(name: str) -> Agent:
    found = list(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        raise AgentMissing(
            f"no installed package has the entry point {name!r} in group {ENTRY_POINT_GROUP!r};"
            " install it on the worker"
        )
    agent: Agent = found[0].load()
    if not inspect.iscoroutinefunction(agent):
        raise AgentMissing(f"the entry point {name!r} is not a coroutine function (async def)")
    return agent
