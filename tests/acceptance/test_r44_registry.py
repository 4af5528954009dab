"""R44: agents and tools are registered, versioned, found and matched."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from interlock.client import Client, InterlockError
from interlock.registry.v1 import (
    agent_pb2,
    registry_service_pb2,
    tool_pb2,
    tool_service_pb2,
)
from interlock.verify import parse_leaf
from svc_kit.identity import Role
from tests.acceptance.works import ECHO
from tests.e2e.catalogue import Work, duration, publish_agent, publish_tool
from tests.e2e.observing import eventually
from tests.suite_running import Suite

SOURCE = "def run(value):\n    return value\n"


async def test_R44_1_an_agent_is_registered_with_full_metadata(client: Client) -> None:
    work = Work(
        name="acc-registered",
        source=SOURCE,
        arguments=("value",),
        capabilities=("data.csv", "text"),
        failures=4,
    )
    tool = await publish_tool(client, work.tool, work.tool_spec())
    version = await publish_agent(client, work.name, work.agent_spec())
    agent = (
        await client.call(client.agents.GetAgent, registry_service_pb2.GetAgentRequest(name=work.name))
    ).agent
    assert (agent.name, agent.description) == (work.name, "Calls acc_registered.")
    assert (agent.latest_version, list(agent.capabilities)) == ("1.0.0", ["data.csv", "text"])
    assert (agent.status, agent.creator) == (tool_pb2.STATUS_ACTIVE, "tester")
    assert 0 < agent.create_time.ToNanoseconds() <= agent.update_time.ToNanoseconds()
    request = registry_service_pb2.GetAgentVersionRequest(agent=work.name)
    stored = (await client.call(client.agents.GetAgentVersion, request)).agent_version
    assert stored == version
    assert (stored.version, stored.publisher) == ("1.0.0", "tester")
    assert stored.digest.startswith("sha256:")
    (binding,) = stored.spec.tools
    assert (binding.tool, binding.version, binding.digest) == (work.tool, "1.0.0", tool.digest)
    # Its configuration
    assert stored.spec.retry.max_failures == 4
    assert stored.spec.plan.steps[0].arguments == {"value": "input.value"}
    found = (await client.call(client.tools.GetTool, tool_service_pb2.GetToolRequest(name=work.tool))).tool
    assert (found.name, found.latest_version, found.creator) == (work.tool, "1.0.0", "tester")
    assert tool.spec.python.source == SOURCE
    assert json.loads(tool.spec.input_schema_json)["required"] == ["value"]


async def agents_with(client: Client, wanted: str) -> set[str]:
    """Names of the agents that a filter takes."""
    request = registry_service_pb2.ListAgentsRequest(page_size=1000, filter=wanted)
    return {agent.name for agent in (await client.call(client.agents.ListAgents, request)).agents}


async def test_R44_2_agents_are_found_by_capability_and_by_tool(client: Client) -> None:
    for name, capability in (("acc-special", "acc.find.special"), ("acc-general", "acc.find")):
        work = Work(name=name, source=SOURCE, arguments=("value",), capabilities=(capability,))
        await publish_tool(client, work.tool, work.tool_spec())
        await publish_agent(client, work.name, work.agent_spec())
    # Who can do the special thing can do the general one, and not the other way round.
    assert await agents_with(client, 'capability = "acc.find"') == {"acc-special", "acc-general"}
    assert await agents_with(client, 'capability = "acc.find.special"') == {"acc-special"}
    assert await agents_with(client, 'tool = "acc_general"') == {"acc-general"}
    assert await agents_with(client, 'capability = "acc.find" AND status = "DISABLED"') == set()
    with pytest.raises(InterlockError) as refused:
        await agents_with(client, 'colour = "red"')
    assert refused.value.reason == "FILTER_INVALID"


Change = Callable[[Client], Awaitable[Any]]


def changes(name: str) -> list[Change]:
    """Every way to change the registry."""
    work = Work(name=name, source=SOURCE, arguments=("value",))
    tool_version = tool_service_pb2.PublishToolVersionRequest(
        tool=work.tool, version="1.0.0", spec=work.tool_spec()
    )
    agent_version = registry_service_pb2.PublishAgentVersionRequest(
        agent=name, version="1.0.0", spec=work.agent_spec()
    )
    disabled = tool_pb2.STATUS_DISABLED
    return [
        lambda c: c.call(c.tools.CreateTool, tool_service_pb2.CreateToolRequest(name=work.tool)),
        lambda c: c.call(c.tools.PublishToolVersion, tool_version),
        lambda c: c.call(c.agents.CreateAgent, registry_service_pb2.CreateAgentRequest(name=name)),
        lambda c: c.call(c.agents.PublishAgentVersion, agent_version),
        lambda c: c.call(
            c.tools.SetToolStatus, tool_service_pb2.SetToolStatusRequest(name=work.tool, status=disabled)
        ),
        lambda c: c.call(
            c.agents.SetAgentStatus, registry_service_pb2.SetAgentStatusRequest(name=name, status=disabled)
        ),
    ]


async def test_R44_3_only_a_super_admin_changes_the_registry_and_each_change_is_audited(
    suite: Suite, client: Client
) -> None:
    name = "acc-guarded"
    before = await agents_with(client, "")
    for role in sorted(set(Role) - {Role.SUPER_ADMIN}):
        tenant = "system" if role is Role.SERVICE else "default"
        async with suite.client(role, tenant=tenant) as other:
            for change in changes(name):
                with pytest.raises(InterlockError) as refused:
                    await change(other)
                assert (refused.value.code.name, refused.value.reason) == (
                    "PERMISSION_DENIED",
                    "ROLE_REQUIRED",
                )
    assert await agents_with(client, "") == before
    for change in changes(name):
        await change(client)

    async def audited() -> list[tuple[str, str]] | None:
        found = registry_changes(suite, name)
        return found if len(found) >= len(changes(name)) else None

    assert await eventually(audited) == [
        ("tool", "CREATE"),
        ("tool", "PUBLISH"),
        ("agent", "CREATE"),
        ("agent", "PUBLISH"),
        ("tool", "DISABLE"),
        ("agent", "DISABLE"),
    ]


def registry_changes(suite: Suite, name: str) -> list[tuple[str, str]]:
    """Kind and action of every recorded change of an agent, and of the tool of its name, in log order."""
    names = {name, name.replace("-", "_")}
    with suite.database("audit") as connection:
        rows = connection.execute(
            "SELECT leaf FROM entry WHERE type = 'REGISTRY_CHANGE' ORDER BY leaf_index"
        ).fetchall()
    leaves = [parse_leaf(bytes(leaf)).fields for (leaf,) in rows]
    return [
        (leaf["attributes"]["kind"], leaf["status"])
        for leaf in leaves
        if names & {leaf.get("agent"), leaf.get("tool")}
    ]


async def test_R44_4_versions_are_immutable_and_keep_their_history(suite: Suite, client: Client) -> None:
    work = Work(name="acc-versions", source=SOURCE, arguments=("value",))
    await publish_tool(client, work.tool, work.tool_spec())
    first = await publish_agent(client, work.name, work.agent_spec())
    changed = work.agent_spec()
    changed.description = "Calls it more slowly."
    changed.start_to_close_timeout.CopyFrom(duration(60))

    async def published(spec: agent_pb2.AgentSpec, version: str) -> agent_pb2.AgentVersion:
        request = registry_service_pb2.PublishAgentVersionRequest(agent=work.name, version=version, spec=spec)
        async with suite.client("SUPER_ADMIN", subject="another-editor") as editor:
            return (await editor.call(editor.agents.PublishAgentVersion, request)).agent_version

    assert await published(work.agent_spec(), "1.0.0") == first
    with pytest.raises(InterlockError) as refused:
        await published(changed, "1.0.0")
    assert refused.value.reason == "VERSION_EXISTS"
    second = await published(changed, "1.1.0")
    with pytest.raises(InterlockError) as refused:
        await published(changed, "1.0.5")
    assert refused.value.reason == "VERSION_TOO_LOW"
    request = registry_service_pb2.ListAgentVersionsRequest(agent=work.name)
    history = (await client.call(client.agents.ListAgentVersions, request)).agent_versions
    assert list(history) == [second, first]
    assert [version.publisher for version in history] == ["another-editor", "tester"]
    assert second.digest != first.digest
    assert second.spec.description == "Calls it more slowly."
    assert first.spec.description == "Calls acc_versions."
    # A task keeps the version that it was submitted for.
    pinned = await client.submit(work.name, '{"value":1}', agent_version="1.0.0")
    newest = await client.submit(work.name, '{"value":1}')
    assert (pinned.agent_version, newest.agent_version) == ("1.0.0", "1.1.0")


async def test_R44_5_agents_are_ranked_for_a_task_with_reasons(client: Client) -> None:
    held = {
        "acc-exact": ("acc.match",),
        "acc-below": ("acc.match.more",),
        "acc-jack-of-all": ("acc.match", "acc.other"),
        "acc-unfit": ("acc.other",),
        "acc-off": ("acc.match",),
    }
    for name, capabilities in held.items():
        spec = Work(name=ECHO.name, source="", arguments=("value",), capabilities=capabilities).agent_spec()
        await publish_agent(client, name, spec)
    request = registry_service_pb2.SetAgentStatusRequest(name="acc-off", status=tool_pb2.STATUS_DISABLED)
    await client.call(client.agents.SetAgentStatus, request)
    wanted = registry_service_pb2.FindAgentsForTaskRequest(
        capabilities=["acc.match"], tools=[ECHO.tool], include_rejected=True, limit=100
    )
    answer = await client.call(client.agents.FindAgentsForTask, wanted)
    assert [each.agent for each in answer.candidates] == ["acc-exact", "acc-jack-of-all", "acc-below"]
    scores = [each.score for each in answer.candidates]
    assert scores == sorted(scores, reverse=True)
    assert all(each.reasons for each in answer.candidates)
    assert "has acc.match" in answer.candidates[0].reasons
    rejected = {each.agent: " ".join(each.reasons) for each in answer.rejected}
    assert "acc.match" in rejected["acc-unfit"]
    assert "disabled" in rejected["acc-off"]
    assert await client.call(client.agents.FindAgentsForTask, wanted) == answer
