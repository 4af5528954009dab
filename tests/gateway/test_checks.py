"""Steps 4 to 6 and the reach: each refuses with its reason, its verdict and its entry, and nothing runs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway_svc.audit_log import AuditLog
from interlock.audit.v1 import entry_pb2
from interlock.client.registry_feed import RegistryFeed
from interlock.common.v1 import permit_pb2
from interlock.gateway.v1 import (
    gateway_service_pb2,
    gateway_service_pb2_grpc,
    policy_service_pb2,
    policy_service_pb2_grpc,
    tool_call_pb2,
)
from interlock.registry.v1 import agent_pb2, tool_pb2
from interlock_sandbox.cgroups import CgroupsMissing, CgroupTree
from svc_kit.identity import Role
from svc_kit.status import RemoteError
from tests.gateway.world import (
    AGENT,
    AGENT_VERSION,
    ECHO,
    TOOL_VERSION,
    World,
    binding,
    claims,
    gateway,
    kinds,
    once,
    payload,
    until,
)


def verdicts(call: tool_call_pb2.ToolCall) -> dict[str, str]:
    """What each line of the permission model said, in its order."""
    said = {True: "passed", False: "failed"}
    return {each.check: "skipped" if each.skipped else said[each.passed] for each in call.verdicts}


async def assert_refused(
    world: World, permit: Any, error: RemoteError, *, code: str, reason: str, arguments: Any = None
) -> tool_call_pb2.ToolCall:
    """Refused with this reason; nothing ran; row, verdicts and entry tell of it."""
    assert (error.code.name, error.reason) == (code, reason)
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert error.metadata["verdict"] == "true"
    assert world.runs == 0
    (entry,) = await world.told(permit, 1)
    assert kinds([entry]) == [("TOOL_CALL", "REFUSED", reason)]
    assert payload(entry) == (arguments or {})
    call = await world.get(permit)
    assert call.status == tool_call_pb2.TOOL_CALL_STATUS_REFUSED
    assert call.reason == reason
    assert list(verdicts(call)) == ["role", "binding", "allow", "approval", "reach"]
    return call


# Binding


async def test_a_tool_that_is_not_listed_and_one_that_does_not_exist_answer_alike(
    closed_world: World,
) -> None:
    closed_world.publish_tool()
    closed_world.publish_tool("secret", bound=False)
    async with gateway(closed_world) as world:
        await world.allow()
        unbound, unknown = world.permit(tool="secret"), world.permit(tool="nowhere")
        first, second = await world.refusal(unbound), await world.refusal(unknown)
        assert first.message.replace("secret", "?") == second.message.replace("nowhere", "?")
        assert first.code == second.code
        assert set(first.metadata) == set(second.metadata)
        await assert_refused(world, unknown, second, code="PERMISSION_DENIED", reason="TOOL_NOT_BOUND")
        call = await assert_refused(world, unbound, first, code="PERMISSION_DENIED", reason="TOOL_NOT_BOUND")
        assert verdicts(call) == {
            "role": "passed",
            "binding": "failed",
            "allow": "skipped",
            "approval": "skipped",
            "reach": "skipped",
        }


async def test_an_agent_version_that_was_never_published_has_no_tools(world: World) -> None:
    permit = world.permit(agent_version="9.9.9")
    error = await world.refusal(permit)
    await assert_refused(world, permit, error, code="PERMISSION_DENIED", reason="TOOL_NOT_BOUND")


async def test_another_tenants_agent_of_the_same_name_lends_no_tools(world: World) -> None:
    permit = world.permit(tenant="somebody-else")
    error = await world.refusal(permit, tenant="somebody-else")
    assert error.reason == "TOOL_NOT_BOUND"
    assert world.runs == 0


async def test_disabling_a_tool_stops_its_calls_within_a_second(world: World) -> None:
    await world.allow()
    await world.execute(world.permit())
    disabled = tool_pb2.Tool(name="echo", latest_version=TOOL_VERSION, status=tool_pb2.STATUS_DISABLED)
    world.registry.publish(world.tenant, disabled)

    await once("NOT_ACTIVE", lambda: world.reason(world.permit()), instead_of="")


async def test_a_disabled_agent_calls_nothing(closed_world: World) -> None:
    closed_world.publish_tool()
    agent = agent_pb2.Agent(name=AGENT, latest_version=AGENT_VERSION, status=tool_pb2.STATUS_DISABLED)
    closed_world.registry.publish(closed_world.tenant, agent)
    async with gateway(closed_world) as world:
        permit = world.permit()
        error = await world.refusal(permit)
        await assert_refused(world, permit, error, code="FAILED_PRECONDITION", reason="NOT_ACTIVE")


async def test_a_tool_whose_definition_is_not_the_pinned_one_does_not_run(closed_world: World) -> None:
    pinned = closed_world.publish_tool(bound=False)
    closed_world.publish_agent(binding(pinned))
    closed_world.publish_tool(source=ECHO + "# changed\n", bound=False)
    async with gateway(closed_world) as world:
        await world.allow()
        for digest in (pinned.digest, world.tools["echo"].digest):
            permit = world.permit(tool_digest=digest)
            error = await world.refusal(permit)
            await assert_refused(
                world, permit, error, code="FAILED_PRECONDITION", reason="TOOL_DEFINITION_CHANGED"
            )


async def test_an_agent_whose_digest_is_not_the_permitted_one_calls_nothing(world: World) -> None:
    permit = world.permit(agent_digest=f"sha256:{'b' * 64}")
    error = await world.refusal(permit)
    await assert_refused(world, permit, error, code="FAILED_PRECONDITION", reason="TOOL_DEFINITION_CHANGED")


# Arguments

SCHEMA = {
    "type": "object",
    "required": ["path", "mode"],
    "additionalProperties": False,
    "properties": {
        "path": {"type": "string"},
        "mode": {"enum": ["r"]},
        "lines": {"items": {"type": "integer"}},
    },
}


async def test_every_violation_of_the_schema_is_named_by_its_place(closed_world: World) -> None:
    closed_world.publish_tool(input_schema=SCHEMA)
    async with gateway(closed_world) as world:
        await world.allow()
        arguments = {"mode": "w", "lines": [1, "2", 3, "4"], "extra": True}
        permit = world.permit(arguments)
        error = await world.refusal(permit, arguments)
        places = sorted(violation.field for violation in error.violations)
        assert places == ["/extra", "/lines/1", "/lines/3", "/mode", "/path"]
        call = await assert_refused(
            world,
            permit,
            error,
            code="INVALID_ARGUMENT",
            reason="ARGUMENTS_INVALID",
            arguments=arguments,
        )
        assert verdicts(call)["binding"] == "passed"
        assert verdicts(call)["allow"] == "skipped"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": "\\u0000"}',
        '{"a": "\\ud800"}',
        '{"a":' * 70,
    ],
)
async def test_arguments_that_are_no_strict_json_object_are_refused(world: World, text: str) -> None:
    await world.allow()
    permit = world.permit()
    error = await world.refusal(permit, text=text)
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "ARGUMENTS_INVALID")
    assert error.violations
    assert world.runs == 0
    assert kinds(await world.told(permit, 1)) == [("TOOL_CALL", "REFUSED", "ARGUMENTS_INVALID")]


async def test_other_arguments_than_the_permitted_ones_are_refused(world: World) -> None:
    await world.allow()
    permit = world.permit({"amount": 1})
    error = await world.refusal(permit, {"amount": 1000})
    await assert_refused(
        world, permit, error, code="PERMISSION_DENIED", reason="PERMIT_MISMATCH", arguments={"amount": 1000}
    )


async def test_the_same_arguments_spelled_otherwise_are_the_same(world: World) -> None:
    await world.allow()
    answer = await world.execute(world.permit({"a": 1, "b": "ä"}), text='{ "b" : "\\u00e4", "a":1 }')
    assert answer.result_json == '{"a":1,"b":"ä"}'


# Policy


async def test_nothing_is_allowed_by_default(world: World) -> None:
    permit = world.permit({"a": 1})
    error = await world.refusal(permit, {"a": 1})
    call = await assert_refused(
        world, permit, error, code="PERMISSION_DENIED", reason="POLICY_DENIED", arguments={"a": 1}
    )
    assert error.metadata["agent"] == AGENT
    assert error.metadata["tool"] == "echo"
    assert f"interlock allow {AGENT} echo" in error.help
    assert verdicts(call) == {
        "role": "passed",
        "binding": "passed",
        "allow": "failed",
        "approval": "skipped",
        "reach": "skipped",
    }


async def test_after_an_allow_the_same_call_passes_under_the_same_id(world: World) -> None:
    permit = world.permit({"a": 1})
    await world.refusal(permit, {"a": 1})
    await world.told(permit, 1)
    scope = f'principal == Interlock::Agent::"{AGENT}", action, resource == Interlock::Tool::"echo"'
    await world.allow("echo", f"permit ({scope});")
    answer = await world.execute(permit, {"a": 1})
    assert (answer.result_json, answer.replayed) == ('{"a":1}', False)
    assert kinds(await world.told(permit, 3)) == [
        ("TOOL_CALL", "REFUSED", "POLICY_DENIED"),
        ("TOOL_CALL", "RUNNING", ""),
        ("TOOL_RESULT", "COMPLETED", ""),
    ]
    call = await world.get(permit)
    assert list(call.policy_ids) == ["echo@1"]
    assert set(verdicts(call).values()) == {"passed"}


async def test_a_forbid_that_stumbles_over_the_arguments_refuses(world: World) -> None:
    await world.allow()
    await world.allow(
        "limit", "forbid (principal, action, resource) when { context.arguments.amount > 100 };"
    )
    for arguments in ({"amount": 500}, {"amount": "500"}, {}, {"amount": 0.5}):
        permit = world.permit(arguments)
        error = await world.refusal(permit, arguments)
        assert error.reason == "POLICY_DENIED", arguments
    assert world.runs == 0
    assert (await world.execute(world.permit({"amount": 5}), {"amount": 5})).result_json == '{"amount":5}'


async def test_another_tenants_policies_allow_nothing_here(world: World) -> None:
    await world.sql(
        "INSERT INTO policy (tenant, policy_id, version, cedar, description, mode, create_time, creator,"
        " update_time, updater, etag)"
        " VALUES ('somebody', 'all', 1, :cedar, '', 'ENFORCE', now(), 'x', now(), 'x', 'e')",
        cedar="permit (principal, action, resource);",
    )
    await world.sql("INSERT INTO policy_head VALUES ('somebody', 1)")
    permit = world.permit()
    assert (await world.refusal(permit)).reason == "POLICY_DENIED"


async def test_a_deleted_policy_allows_nothing_any_more(world: World) -> None:
    await world.allow()
    await world.execute(world.permit())
    stub = policy_service_pb2_grpc.PolicyServiceStub(world.public)
    await stub.DeletePolicy(
        policy_service_pb2.DeletePolicyRequest(policy_id="all"), metadata=world.token(Role.ADMIN)
    )
    assert (await world.refusal(world.permit())).reason == "POLICY_DENIED"


async def test_policies_see_who_submitted_the_task(world: World) -> None:
    condition = 'context.submitter.subject == "ada" && context.submitter.roles.contains("DEVELOPER")'
    await world.allow("ada", f"permit (principal, action, resource) when {{ {condition} }};")
    await world.execute(world.permit())
    assert (await world.refusal(world.permit(submitters=[]))).reason == "POLICY_DENIED"


async def test_a_child_task_needs_a_policy_for_every_agent_above_it(world: World) -> None:
    ada = permit_pb2.Principal(tenant=world.tenant, subject="ada", roles=["DEVELOPER"])
    above = [
        permit_pb2.Principal(tenant=world.tenant, subject=f"agent:{name}", agent=name, agent_version="2.0.0")
        for name in ("manager", "chief")
    ]
    await world.allow("analyst", f'permit (principal == Interlock::Agent::"{AGENT}", action, resource);')
    await world.allow("manager", 'permit (principal == Interlock::Agent::"manager", action, resource);')
    await world.execute(world.permit(submitters=[above[0], ada]))
    permit = world.permit(submitters=[*above, ada])
    error = await world.refusal(permit)
    assert (error.reason, error.metadata["ancestor"]) == ("ANCESTOR_DENIED", "chief")
    call = await world.get(permit)
    (told,) = [each.explanation for each in call.verdicts if "chief" in each.explanation]
    assert told.startswith(f"Agent {AGENT} works for agent chief")
    version = 'context.agent_version == "2.0.0" && context.submitter.subject == "ada"'
    chief = 'principal == Interlock::Agent::"chief"'
    await world.allow("chief", f"permit ({chief}, action, resource) when {{ {version} }};")
    await world.execute(world.permit(submitters=[*above, ada]))


# Reach


async def test_a_host_that_cannot_isolate_well_enough_refuses_instead_of_running_weaker(
    closed_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here() -> CgroupTree:
        raise CgroupsMissing("this host hands us none")

    monkeypatch.setattr(CgroupTree, "create", none_here)
    closed_world.publish_tool()
    async with gateway(closed_world, sandbox_minimum="FULL") as world:
        await world.allow()
        permit = world.permit()
        error = await world.refusal(permit)
        assert error.metadata["minimum"] == "FULL"
        call = await assert_refused(
            world, permit, error, code="FAILED_PRECONDITION", reason="SANDBOX_UNAVAILABLE"
        )
        assert verdicts(call)["reach"] == "failed"


async def test_a_tool_has_the_packages_of_the_profile_that_it_names_or_does_not_run(
    closed_world: World, tmp_path: Path
) -> None:
    (tmp_path / "greetings.py").write_text("WORD = 'hello'\n")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    source = "import greetings\ndef run():\n    return greetings.WORD\n"
    for name, profile in (("has", "data"), ("lacks", ""), ("asks", "more")):
        closed_world.publish_tool(name, source, profile=profile)
    profiles = {"data": {"packages": str(tmp_path)}}
    async with gateway(closed_world, sandbox_profiles=profiles, sandbox_spares=1) as world:
        await world.allow()
        permit = world.permit(tool="asks")
        call = await assert_refused(
            world, permit, await world.refusal(permit), code="FAILED_PRECONDITION", reason="PROFILE_UNKNOWN"
        )
        assert verdicts(call)["reach"] == "failed"
        stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
        request = gateway_service_pb2.GetSandboxStatusRequest()
        answer = await stub.GetSandboxStatus(request, metadata=world.token(Role.VIEWER))
        assert list(answer.profiles) == ["data"]
        assert (await world.execute(world.permit(tool="has"))).result_json == '"hello"'
        assert (await world.execute(world.permit(tool="lacks"))).error_class == "ModuleNotFoundError"


async def test_a_host_that_makes_no_sandbox_for_the_moment_decides_nothing_about_the_call(
    world: World,
) -> None:
    await world.allow()
    await world.sandbox.close()
    permit = world.permit()
    error = await world.refusal(permit)
    assert (error.code.name, error.reason) == ("UNAVAILABLE", "SANDBOX_UNAVAILABLE")
    assert error.metadata["execution_state"] == "NOT_STARTED"
    assert error.retry_after is not None
    assert "verdict" not in error.metadata
    assert [row.status for row in await world.rows(permit)] == ["REFUSED"]


# Feeds


async def test_a_gateway_that_has_not_heard_the_registry_refuses(closed_world: World) -> None:
    closed_world.publish_tool()
    closed_world.registry.silent = True
    async with gateway(closed_world) as world:
        await world.allow()
        permit = world.permit()
        error = await world.refusal(permit)
        assert (error.code.name, error.reason) == ("UNAVAILABLE", "POLICY_STALE")
        assert error.retry_after is not None
        assert world.runs == 0
        world.registry.silent = False

        await once("", lambda: world.reason(permit), instead_of="POLICY_STALE")


# Once more, before the run


async def changed_meanwhile(world: World, change: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A permit whose call is written ahead while the change takes place, and its refusal."""
    appended = AuditLog.append

    async def append(log: AuditLog, event: entry_pb2.Event) -> int:
        index = await appended(log, event)
        await change()
        return index

    await world.allow()
    monkeypatch.setattr(AuditLog, "append", append)
    permit = world.permit()
    return permit, await world.refusal(permit)


async def test_a_tool_disabled_while_its_call_was_written_ahead_does_not_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def disable() -> None:
        disabled = tool_pb2.Tool(name="echo", latest_version=TOOL_VERSION, status=tool_pb2.STATUS_DISABLED)
        real = RegistryFeed.tool

        def tool(feed: RegistryFeed, tenant: str, name: str) -> tool_pb2.Tool | None:
            return disabled if name == "echo" else real(feed, tenant, name)

        monkeypatch.setattr(RegistryFeed, "tool", tool)

    permit, error = await changed_meanwhile(world, disable, monkeypatch)
    assert (error.reason, error.metadata["execution_state"]) == ("NOT_ACTIVE", "NOT_STARTED")
    assert error.metadata["verdict"] == "true"
    assert world.runs == 0
    call = await world.get(permit)
    assert (call.status, call.reason) == (tool_call_pb2.TOOL_CALL_STATUS_REFUSED, "NOT_ACTIVE")
    assert verdicts(call)["binding"] == "failed"
    assert kinds(await world.told(permit, 2)) == [
        ("TOOL_CALL", "RUNNING", ""),
        ("TOOL_CALL", "REFUSED", "NOT_ACTIVE"),
    ]


async def test_a_policy_deleted_while_a_call_was_written_ahead_allows_nothing_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def delete() -> None:
        stub = policy_service_pb2_grpc.PolicyServiceStub(world.public)
        await stub.DeletePolicy(
            policy_service_pb2.DeletePolicyRequest(policy_id="all"), metadata=world.token(Role.ADMIN)
        )

    permit, error = await changed_meanwhile(world, delete, monkeypatch)
    assert (error.reason, error.metadata["execution_state"]) == ("POLICY_DENIED", "NOT_STARTED")
    assert world.runs == 0
    assert verdicts(await world.get(permit))["allow"] == "failed"
    assert kinds(await world.told(permit, 2))[1] == ("TOOL_CALL", "REFUSED", "POLICY_DENIED")


async def test_a_permit_that_ran_out_while_its_call_was_written_ahead_starts_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.allow()
    permit = world.permit(expire_time=datetime.now(UTC) + timedelta(seconds=0.7))
    appended = AuditLog.append

    async def append(log: AuditLog, event: entry_pb2.Event) -> int:
        index = await appended(log, event)
        await until(lambda: datetime.now(UTC) > claims(permit).expire_time.ToDatetime(UTC))
        return index

    monkeypatch.setattr(AuditLog, "append", append)
    assert await world.reason(permit) == "PERMIT_EXPIRED"
    assert world.runs == 0
    assert [row.status for row in await world.rows(permit)] == ["REFUSED"]
