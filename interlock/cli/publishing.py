"""What the registry commands ask of the registry."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from interlock.cli.manifest import AgentEntry, Manifest, ToolEntry
from interlock.cli.policies import misfit_lines, naming
from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.registry.v1 import agent_pb2, registry_service_pb2, tool_pb2, tool_service_pb2

_PAGE = 1000


async def publish(
    suite: Client, manifest: Manifest, *, with_agents: bool, dry_run: bool
) -> AsyncIterator[dict[str, Any]]:
    """Create what is missing and publish every version: tools first, since agents are bound to them."""
    for tool in manifest.tools:
        yield await _publish_tool(suite, tool, dry_run=dry_run)
    if with_agents:
        for agent in manifest.agents:
            yield await _publish_agent(suite, agent, dry_run=dry_run)


def published_lines(published: Mapping[str, Any]) -> Iterator[str]:
    """What was published, and which policies do not fit it."""
    what = f"{published['kind']} {published['name']} {published['version']}"
    yield f"{what:<32}  {published['digest']}"
    for line in published.get("misfits", ()):
        yield f"  {line}"


def table(
    kind: str, found: Sequence[agent_pb2.Agent] | Sequence[tool_pb2.Tool]
) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """Headings and rows of a list."""
    headings = ("NAME", "VERSION", "STATUS", "CAPABILITIES")
    rows = [
        (
            each.name,
            each.latest_version or "-",
            "active" if each.status == tool_pb2.STATUS_ACTIVE else "disabled",
            ", ".join(getattr(each, "capabilities", ())),
        )
        for each in found
    ]
    return (headings, rows) if kind == "agent" else (headings[:3], [row[:3] for row in rows])


async def list_all(
    suite: Client, kind: str, wanted: str
) -> Sequence[agent_pb2.Agent] | Sequence[tool_pb2.Tool]:
    """Every agent or tool that a filter takes."""
    found: list[Any] = []
    token = ""
    while True:
        if kind == "agent":
            agents = await suite.call(
                suite.agents.ListAgents,
                registry_service_pb2.ListAgentsRequest(page_size=_PAGE, page_token=token, filter=wanted),
            )
            found += agents.agents
            token = agents.next_page_token
        else:
            tools = await suite.call(
                suite.tools.ListTools,
                tool_service_pb2.ListToolsRequest(page_size=_PAGE, page_token=token, filter=wanted),
            )
            found += tools.tools
            token = tools.next_page_token
        if not token:
            return found


async def get_version(
    suite: Client, kind: str, name: str, version: str
) -> agent_pb2.AgentVersion | tool_pb2.ToolVersion:
    """One version, the newest when none is named."""
    if kind == "agent":
        request = registry_service_pb2.GetAgentVersionRequest(agent=name, version=version)
        return (await suite.call(suite.agents.GetAgentVersion, request)).agent_version
    wanted = tool_service_pb2.GetToolVersionRequest(tool=name, version=version)
    return (await suite.call(suite.tools.GetToolVersion, wanted)).tool_version


async def _publish_tool(suite: Client, entry: ToolEntry, *, dry_run: bool) -> dict[str, Any]:
    if not dry_run:
        await _unless_taken(
            suite, suite.tools.CreateTool, tool_service_pb2.CreateToolRequest(name=entry.name)
        )
    answer = await suite.call(
        suite.tools.PublishToolVersion,
        tool_service_pb2.PublishToolVersionRequest(
            tool=entry.name, version=entry.version, spec=entry.spec, validate_only=dry_run
        ),
    )
    version = answer.tool_version.version
    done: dict[str, Any] = _done("tool", entry.name, version, answer.tool_version.digest)
    # What is not stored the gateway cannot look at.
    if not dry_run and (misfits := await _misfits(suite, entry.name, version)):
        done["misfits"] = misfits
    return done


async def _misfits(suite: Client, tool: str, version: str) -> list[str]:
    try:
        return [line for policy in await naming(suite, tool, version) for line in misfit_lines(policy)]
    except InterlockError as error:
        # The version stands, whatever the gateway says.
        return [f"policies that name it were not looked at: {error}"]


async def _publish_agent(suite: Client, entry: AgentEntry, *, dry_run: bool) -> dict[str, str]:
    if not dry_run:
        await _unless_taken(
            suite, suite.agents.CreateAgent, registry_service_pb2.CreateAgentRequest(name=entry.name)
        )
    answer = await suite.call(
        suite.agents.PublishAgentVersion,
        registry_service_pb2.PublishAgentVersionRequest(
            agent=entry.name, version=entry.version, spec=entry.spec, validate_only=dry_run
        ),
    )
    return _done("agent", entry.name, answer.agent_version.version, answer.agent_version.digest)


async def _unless_taken(suite: Client, create: Any, request: Any) -> None:
    try:
        await suite.call(create, request)
    except InterlockError as error:
        if error.reason != "NAME_TAKEN":
            raise


def _done(kind: str, name: str, version: str, digest: str) -> dict[str, str]:
    return {"kind": kind, "name": name, "version": version, "digest": digest}
