"""The registry over gRPC, on a real database."""

import asyncio
import json
from typing import Any

import grpc
import psycopg
import pytest
from sqlalchemy import text

from interlock.client.registry_feed import RegistryFeed
from interlock.registry.v1 import agent_pb2, tool_pb2
from interlock.registry.v1 import registry_service_pb2 as messages
from interlock.registry.v1 import tool_service_pb2 as tool_messages
from svc_kit.database import Database
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.e2e.observing import eventually
from tests.registry.conftest import Connect, Stubs
from tests.suite_fixtures import ServiceDatabase

_SCHEMA = json.dumps({"type": "object", "properties": {"text": {"type": "string"}}})


def _tool_spec(**changes: Any) -> tool_pb2.ToolSpec:
    fields: dict[str, Any] = {
        "description": "echoes",
        "input_schema_json": _SCHEMA,
        "python": tool_pb2.PythonTool(source="def run(text=''):\n    return text\n"),
    }
    return tool_pb2.ToolSpec(**{**fields, **changes})


def _agent_spec(*capabilities: str, **changes: Any) -> agent_pb2.AgentSpec:
    fields: dict[str, Any] = {
        "description": "says it again",
        "capabilities": capabilities or ("text.echo",),
        "tools": [agent_pb2.ToolBinding(tool="echo")],
        "plan": agent_pb2.PlanRuntime(
            steps=[agent_pb2.PlanStep(key="say", tool="echo", arguments={"text": "input.text"})]
        ),
    }
    return agent_pb2.AgentSpec(**{**fields, **changes})


async def _publish_tool(
    stubs: Stubs, name: str = "echo", version: str = "1.0.0", **changes: Any
) -> tool_pb2.ToolVersion:
    request = tool_messages.PublishToolVersionRequest(tool=name, version=version, spec=_tool_spec(**changes))
    return (await stubs.tools.PublishToolVersion(request)).tool_version


async def _publish_agent(
    stubs: Stubs, name: str = "echoer", version: str = "1.0.0", *capabilities: str, **changes: Any
) -> agent_pb2.AgentVersion:
    request = messages.PublishAgentVersionRequest(
        agent=name, version=version, spec=_agent_spec(*capabilities, **changes)
    )
    return (await stubs.agents.PublishAgentVersion(request)).agent_version


@pytest.fixture
async def editor(connect: Connect) -> Stubs:
    """A SUPER_ADMIN with a published tool `echo` and an agent `echoer` without a version."""
    stubs = connect(Role.SUPER_ADMIN)
    await stubs.tools.CreateTool(tool_messages.CreateToolRequest(name="echo"))
    await _publish_tool(stubs)
    await stubs.agents.CreateAgent(messages.CreateAgentRequest(name="echoer"))
    return stubs


async def _refusal(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_twenty_publishes_at_once_all_succeed_and_none_waits_for_a_second_connection(
    editor: Stubs,
) -> None:
    names = [f"echoer-{number}" for number in range(20)]
    await asyncio.gather(
        *(editor.agents.CreateAgent(messages.CreateAgentRequest(name=name)) for name in names)
    )
    async with asyncio.timeout(4.0):  # the pool gives up after five seconds
        published = await asyncio.gather(*(_publish_agent(editor, name) for name in names))
    assert [each.agent for each in published] == names


async def test_a_published_agent_locks_its_tools_to_a_version_and_digest(editor: Stubs) -> None:
    tool = (await editor.tools.GetToolVersion(tool_messages.GetToolVersionRequest(tool="echo"))).tool_version
    published = await _publish_agent(editor)
    (binding,) = published.spec.tools
    assert (binding.tool, binding.version, binding.digest) == ("echo", "1.0.0", tool.digest)
    await _publish_tool(editor, version="1.1.0", description="echoes louder")
    again = await editor.agents.GetAgentVersion(messages.GetAgentVersionRequest(agent="echoer"))
    assert again.agent_version == published


async def test_publishing_the_same_spec_again_is_a_repeat_and_other_content_is_refused(editor: Stubs) -> None:
    first = await _publish_agent(editor)
    assert await _publish_agent(editor) == first
    refusal = await _refusal(_publish_agent(editor, "echoer", "1.0.0", "text.shout"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "VERSION_EXISTS")


async def test_a_version_below_the_newest_is_refused(editor: Stubs) -> None:
    await _publish_agent(editor, "echoer", "2.0.0")
    refusal = await _refusal(_publish_agent(editor, "echoer", "1.9.9", "text.shout"))
    assert refusal.reason == "VERSION_TOO_LOW"
    assert refusal.metadata["newest"] == "2.0.0"
    assert "above 2.0.0" in refusal.help


async def test_every_flaw_of_a_spec_is_named_at_once(editor: Stubs) -> None:
    bad = agent_pb2.AgentSpec(
        capabilities=["Not A Capability"],
        tools=[agent_pb2.ToolBinding(tool="echo"), agent_pb2.ToolBinding(tool="echo")],
        plan=agent_pb2.PlanRuntime(
            steps=[
                agent_pb2.PlanStep(key="Bad Key", tool="echo"),
                agent_pb2.PlanStep(key="b", tool="other", arguments={"x": "steps.later.y", "z": "((("}),
                agent_pb2.PlanStep(key="c", tool="echo", agent="helper"),
                agent_pb2.PlanStep(key="d", agent="No Name"),
            ]
        ),
        retry=agent_pb2.RetryPolicy(max_failures=1000),
    )
    request = messages.PublishAgentVersionRequest(agent="echoer", version="1.0.0", spec=bad)
    refusal = await _refusal(editor.agents.PublishAgentVersion(request))
    assert refusal.reason == "INVALID_FIELDS"
    assert {violation.field for violation in refusal.violations} == {
        "spec.capabilities[0]",
        "spec.tools[1].tool",
        "spec.plan.steps[0].key",
        "spec.plan.steps[1].tool",
        "spec.plan.steps[1].arguments[x]",
        "spec.plan.steps[1].arguments[z]",
        "spec.plan.steps[2].agent",
        "spec.plan.steps[3].agent",
        "spec.retry.max_failures",
    }


async def test_a_schema_with_a_remote_reference_is_refused_and_nothing_is_fetched(editor: Stubs) -> None:
    fetched = []
    server = await asyncio.start_server(lambda *_: fetched.append(1), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    schema = json.dumps({"type": "object", "properties": {"a": {"$ref": f"http://127.0.0.1:{port}/s"}}})
    refusal = await _refusal(_publish_tool(editor, version="1.1.0", input_schema_json=schema))
    server.close()
    assert refusal.reason == "SCHEMA_INVALID"
    assert refusal.violations[0].field == "spec.input_schema_json"
    assert fetched == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ('{"type": "object", "type": "array"}', "type"),
        ('{"type": NaN}', "NaN"),
        ("", "required"),
        ("[" * 100 + "]" * 100, "64"),
    ],
)
async def test_a_schema_that_is_not_strict_json_is_refused_with_its_field(
    editor: Stubs, schema: str, said: str
) -> None:
    refusal = await _refusal(_publish_tool(editor, version="1.1.0", input_schema_json=schema))
    assert refusal.violations[0].field.startswith("spec.input_schema_json")
    assert said in f"{refusal.violations[0].field} {refusal.violations[0].message}"


@pytest.mark.parametrize(
    ("source", "said"),
    [("def run(:", "not Python"), ("def other(): pass", "no function 'run'"), ("", "required")],
)
async def test_tool_source_that_cannot_run_is_refused_when_published(
    editor: Stubs, source: str, said: str
) -> None:
    refusal = await _refusal(
        _publish_tool(editor, version="1.1.0", python=tool_pb2.PythonTool(source=source))
    )
    assert said in refusal.message


async def test_an_agent_of_an_unknown_tool_is_refused(editor: Stubs) -> None:
    spec = _agent_spec(tools=[agent_pb2.ToolBinding(tool="echo"), agent_pb2.ToolBinding(tool="nothing")])
    request = messages.PublishAgentVersionRequest(agent="echoer", version="1.0.0", spec=spec)
    refusal = await _refusal(editor.agents.PublishAgentVersion(request))
    assert refusal.reason == "TOOL_VERSION_NOT_FOUND"


async def test_validate_only_checks_and_changes_nothing(editor: Stubs) -> None:
    request = messages.PublishAgentVersionRequest(
        agent="echoer", version="1.0.0", spec=_agent_spec(), validate_only=True
    )
    assert (await editor.agents.PublishAgentVersion(request)).agent_version.digest
    agent = (await editor.agents.GetAgent(messages.GetAgentRequest(name="echoer"))).agent
    assert agent.latest_version == ""


_EVERY_OTHER_ROLE = sorted(set(Role) - {Role.SUPER_ADMIN})


@pytest.mark.parametrize("role", _EVERY_OTHER_ROLE)
async def test_R44_3_only_super_admin_edits_the_registry(connect: Connect, role: Role) -> None:
    stubs = connect(role, tenant="system" if role is Role.SERVICE else "default")
    for call in (
        stubs.agents.CreateAgent(messages.CreateAgentRequest(name="a")),
        stubs.tools.CreateTool(tool_messages.CreateToolRequest(name="a")),
        stubs.agents.PublishAgentVersion(messages.PublishAgentVersionRequest(agent="a")),
        stubs.tools.PublishToolVersion(tool_messages.PublishToolVersionRequest(tool="a")),
        stubs.agents.SetAgentStatus(messages.SetAgentStatusRequest(name="a")),
        stubs.tools.SetToolStatus(tool_messages.SetToolStatusRequest(name="a")),
    ):
        assert (await _refusal(call)).reason == "ROLE_REQUIRED"


async def test_another_tenant_sees_nothing_and_may_use_the_same_names(
    editor: Stubs, connect: Connect
) -> None:
    other = connect(Role.SUPER_ADMIN, tenant="other")
    assert (await _refusal(other.agents.GetAgent(messages.GetAgentRequest(name="echoer")))).reason == (
        "AGENT_NOT_FOUND"
    )
    assert not (await other.tools.ListTools(tool_messages.ListToolsRequest())).tools
    await other.tools.CreateTool(tool_messages.CreateToolRequest(name="echo"))
    refusal = await _refusal(
        other.tools.GetTool(
            tool_messages.GetToolRequest(name="echo"), metadata=(("x-interlock-tenant", "default"),)
        )
    )
    assert refusal.reason == "TENANT_FORBIDDEN"


async def test_a_service_acts_for_the_tenant_that_it_names(editor: Stubs, connect: Connect) -> None:
    service = connect(Role.SERVICE, tenant="system")
    found = await service.agents.GetAgent(
        messages.GetAgentRequest(name="echoer"), metadata=(("x-interlock-tenant", "default"),)
    )
    assert found.agent.name == "echoer"


async def test_lists_are_paged_without_repeats_and_a_foreign_page_token_is_refused(editor: Stubs) -> None:
    names = [f"agent-{number:02d}" for number in range(7)]
    for name in names:
        await editor.agents.CreateAgent(messages.CreateAgentRequest(name=name))
    seen: list[str] = []
    token = ""
    while True:
        page = await editor.agents.ListAgents(messages.ListAgentsRequest(page_size=3, page_token=token))
        seen += [agent.name for agent in page.agents]
        token = page.next_page_token
        if not token:
            break
        first_token = token
    assert seen == [*names, "echoer"]
    for request in (
        messages.ListAgentsRequest(page_token="nonsense"),
        messages.ListAgentsRequest(page_token=first_token, filter='status = "ACTIVE"'),
    ):
        refusal = await _refusal(editor.agents.ListAgents(request))
        assert (refusal.reason, refusal.violations[0].field) == ("PAGE_TOKEN_INVALID", "page_token")


async def test_agents_are_filtered_by_capability_tool_and_status(editor: Stubs) -> None:
    await _publish_agent(editor, "echoer", "1.0.0", "text.echo.loud")
    await editor.agents.CreateAgent(messages.CreateAgentRequest(name="empty"))

    async def names(wanted: str) -> list[str]:
        answer = await editor.agents.ListAgents(messages.ListAgentsRequest(filter=wanted))
        return [agent.name for agent in answer.agents]

    assert await names('capability = "text"') == ["echoer"]
    assert await names('capability = "text.echo.loud" AND tool = "echo"') == ["echoer"]
    assert await names('capability = "tex"') == []
    assert await names('status = "DISABLED"') == []
    refusal = await _refusal(editor.agents.ListAgents(messages.ListAgentsRequest(filter='colour = "red"')))
    assert refusal.reason == "FILTER_INVALID"
    assert refusal.metadata["field"] == "colour"


async def test_R44_5_agents_are_matched_to_a_task_by_capability_with_reasons(editor: Stubs) -> None:
    await _publish_agent(editor, "echoer", "1.0.0", "text.echo")
    await editor.agents.CreateAgent(messages.CreateAgentRequest(name="shouter"))
    await _publish_agent(editor, "shouter", "1.0.0", "text.echo.loud")
    await editor.agents.CreateAgent(messages.CreateAgentRequest(name="counter"))
    await _publish_agent(editor, "counter", "1.0.0", "numbers")
    found = await editor.agents.FindAgentsForTask(
        messages.FindAgentsForTaskRequest(capabilities=["text.echo"], include_rejected=True)
    )
    assert [candidate.agent for candidate in found.candidates] == ["echoer", "shouter"]
    assert all(candidate.reasons for candidate in found.candidates)
    assert [(each.agent, list(each.reasons)) for each in found.rejected] == [
        ("counter", ["lacks the capability text.echo"])
    ]
    refusal = await _refusal(editor.agents.FindAgentsForTask(messages.FindAgentsForTaskRequest(limit=1000)))
    assert {violation.field for violation in refusal.violations} == {"capabilities", "limit"}


async def test_a_stale_etag_is_refused_and_a_switched_tool_reaches_a_feed_at_once(
    editor: Stubs, connect: Connect
) -> None:
    service = connect(Role.SERVICE, tenant="system")
    async with RegistryFeed(service.channel) as feed, asyncio.timeout(10):
        await feed.wait_ready()
        held = feed.tool("default", "echo")
        assert held is not None
        assert held.status == tool_pb2.STATUS_ACTIVE
        assert feed.tool_version("default", "echo", "1.0.0") is not None
        changed = asyncio.Event()
        feed.on_change(changed.set)
        request = tool_messages.SetToolStatusRequest(
            name="echo", status=tool_pb2.STATUS_DISABLED, etag=held.etag
        )
        await editor.tools.SetToolStatus(request)
        await changed.wait()
        held = feed.tool("default", "echo")
        assert held is not None
        assert held.status == tool_pb2.STATUS_DISABLED
        assert (await _refusal(editor.tools.SetToolStatus(request))).reason == "ETAG_MISMATCH"


async def test_a_feed_sees_every_change_of_concurrent_writers(editor: Stubs, connect: Connect) -> None:
    service = connect(Role.SERVICE, tenant="system")
    names = [f"tool-{number}" for number in range(30)]

    async def write(name: str) -> None:
        await editor.tools.CreateTool(tool_messages.CreateToolRequest(name=name))
        await _publish_tool(editor, name)

    async with RegistryFeed(service.channel) as feed, asyncio.timeout(30):
        changed = asyncio.Event()
        feed.on_change(changed.set)
        await asyncio.gather(*map(write, names))

        def newest(name: str) -> str:
            tool = feed.tool("default", name)
            return tool.latest_version if tool is not None else ""

        while any(newest(name) != "1.0.0" for name in names):
            changed.clear()
            await changed.wait()
        # A version comes before the tool that names it as its newest.
        assert all(feed.tool_version("default", name, "1.0.0") is not None for name in names)


async def test_R44_4_a_published_version_cannot_be_changed_even_in_the_database(
    editor: Stubs, registry_database: ServiceDatabase
) -> None:
    for url in (registry_database.service_url, registry_database.owner_url):
        database = Database(url)
        for statement in ("UPDATE version SET digest = 'x'", "DELETE FROM version", "TRUNCATE version"):
            with pytest.raises(psycopg.Error, match=r"(permission denied|never changes)"):
                async with database.transaction() as connection:
                    await connection.execute(text(statement))
        await database.close()


async def test_every_change_leaves_an_audit_message_with_actor_and_digest(
    editor: Stubs, registry_database: ServiceDatabase
) -> None:
    published = await _publish_agent(editor)
    database = Database(registry_database.service_url)
    async with database.autocommit() as connection:
        rows = (await connection.execute(text("SELECT seq, body FROM outbox ORDER BY seq"))).all()
    await database.close()
    assert [row.seq for row in rows] == [1, 2, 3, 4]
    assert [row.body["action"] for row in rows] == ["CREATE", "PUBLISH", "CREATE", "PUBLISH"]
    assert rows[-1].body["actor"] == "somebody"
    assert rows[-1].body["digest"] == published.digest


@pytest.mark.parametrize("backlog_limit", [4])
async def test_what_is_new_is_refused_while_the_audit_log_is_too_far_behind(
    editor: Stubs, registry_database: ServiceDatabase
) -> None:
    """Nobody takes in what the registry tells; what is known can be read, and switched off."""
    await editor.tools.CreateTool(tool_messages.CreateToolRequest(name="one-more"))
    await _publish_tool(editor, "one-more")
    refused = await eventually(lambda: _refusal_of_a_new_tool(editor))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_BACKLOG")
    assert refused.retry_after
    for refusal in (
        _publish_tool(editor, "one-more", "2.0.0"),
        editor.agents.CreateAgent(messages.CreateAgentRequest(name="another")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await refusal
        assert from_rpc_error(error.value).reason == "AUDIT_BACKLOG"
    assert (await editor.tools.GetTool(tool_messages.GetToolRequest(name="one-more"))).tool.name == "one-more"
    off = tool_messages.SetToolStatusRequest(name="one-more", status=tool_pb2.STATUS_DISABLED)
    assert (await editor.tools.SetToolStatus(off)).tool.status == tool_pb2.STATUS_DISABLED


async def _refusal_of_a_new_tool(stubs: Stubs) -> RemoteError | None:
    """Each try that is taken makes the backlog longer."""
    name = f"tool-{asyncio.get_running_loop().time():.6f}".replace(".", "-")
    try:
        await stubs.tools.CreateTool(tool_messages.CreateToolRequest(name=name))
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    return None
