"""Finds the agents that can do a task, in what is stored now."""

from typing import Protocol

from registry_svc import matching
from registry_svc.records import Kind, Resource

_PAGE = 1000


class FinderStore(Protocol):
    """What the finder asks of its store; `Store` says what each does."""

    async def page(self, kind: Kind, tenant: str, *, after: str, limit: int) -> list[Resource]: ...


class Finder:
    """Ranks the agents of a tenant."""

    def __init__(self, store: FinderStore) -> None:
        self._store = store

    async def find(
        self, tenant: str, wanted: matching.Wanted
    ) -> tuple[list[matching.Candidate], list[matching.Rejected]]:
        """Candidates, best first, and rejected agents by name."""
        disabled = frozenset(tool.name for tool in await self._all(Kind.TOOL, tenant) if not tool.active)
        agents = [
            matching.Agent(
                name=agent.name,
                version=agent.latest_version,
                active=agent.active,
                capabilities=agent.summary.capabilities,
                tools=frozenset(agent.summary.tools),
                disabled_tools=disabled.intersection(agent.summary.tools),
            )
            for agent in await self._all(Kind.AGENT, tenant)
        ]
        return matching.find(agents, wanted)

    async def _all(self, kind: Kind, tenant: str) -> list[Resource]:
        found: list[Resource] = []
        while True:
            after = found[-1].name if found else ""
            page = await self._store.page(kind, tenant, after=after, limit=_PAGE)
            found += page
            if len(page) < _PAGE:
                return found
