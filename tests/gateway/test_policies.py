"""Policies as a resource of their tenant."""

import json
import uuid
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from psycopg.errors import InsufficientPrivilege

from gateway_svc.cedar.decision import Question
from gateway_svc.policies import Policies
from gateway_svc.policy import PolicyContent, PolicyMode
from gateway_svc.policy_book import PolicyBook
from gateway_svc.policy_fit import PolicyFit
from gateway_svc.policy_store import PolicyStore
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc, policy_service_pb2_grpc
from interlock.gateway.v1 import policy_service_pb2 as messages
from interlock.registry.v1 import tool_pb2
from interlock_suite.databases import ServiceDatabase
from svc_kit.clock import ManualClock
from svc_kit.database import Database
from svc_kit.errors import InvalidArgument
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.world import World, gateway, payload, until

PERMIT = "permit (principal, action, resource);"
FORBID = "forbid (principal, action, resource);"


class Client:
    """PolicyService for one caller; raises RemoteError."""

    def __init__(self, world: World, role: Role = Role.ADMIN, *, tenant: str = "") -> None:
        self._stub = policy_service_pb2_grpc.PolicyServiceStub(world.public)
        self._metadata = world.token(role, tenant=tenant)

    async def __call__(self, method: str, request: Any) -> Any:
        try:
            return await getattr(self._stub, method)(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def create(self, policy_id: str, cedar: str = PERMIT, **fields: Any) -> messages.Policy:
        validate_only = fields.pop("validate_only", False)
        policy = messages.Policy(policy_id=policy_id, cedar=cedar, **fields)
        answer = await self(
            "CreatePolicy", messages.CreatePolicyRequest(policy=policy, validate_only=validate_only)
        )
        stored: messages.Policy = answer.policy
        return stored

    async def ids(self, **options: Any) -> list[str]:
        answer = await self("ListPolicies", messages.ListPoliciesRequest(**options))
        return [policy.policy_id for policy in answer.policies]


@pytest.fixture
def client(world: World) -> Client:
    return Client(world)


async def test_a_policy_is_read_back_as_it_was_stored(world: World, client: Client) -> None:
    stored = await client.create("first", description="for the demo")
    read = await Client(world, Role.AUDITOR)("GetPolicy", messages.GetPolicyRequest(policy_id="first"))
    assert read.policy == stored
    assert (stored.cedar, stored.description, stored.creator) == (PERMIT, "for the demo", "ada")
    assert stored.etag
    assert stored.create_time.seconds > 0


async def test_policies_are_listed_by_id_page_by_page(client: Client) -> None:
    for policy_id in ("c", "a", "b"):
        await client.create(policy_id)
    page = await client("ListPolicies", messages.ListPoliciesRequest(page_size=2))
    assert [policy.policy_id for policy in page.policies] == ["a", "b"]
    assert await client.ids(page_size=2, page_token=page.next_page_token) == ["c"]


async def test_every_change_is_told_to_the_audit_log(world: World, client: Client) -> None:
    stored = await client.create("told")
    await client("DeletePolicy", messages.DeletePolicyRequest(policy_id="told", etag=stored.etag))
    mine = [event for event in world.audit.events if event.tenant == world.tenant]

    def told() -> bool:
        mine[:] = [event for event in world.audit.events if event.tenant == world.tenant]
        return len(mine) == 2

    await until(told)
    assert [event.status for event in mine] == ["CREATED", "DELETED"]
    assert all(event.actor == "ada" and event.attributes["policy_id"] == "told" for event in mine)
    assert all(payload(event)["cedar"] == PERMIT for event in mine)


@pytest.mark.parametrize(
    ("policy_id", "cedar", "reason", "fields"),
    [
        ("Bad Id", PERMIT, "INVALID_FIELDS", ["policy.policy_id"]),
        ("-x", PERMIT, "INVALID_FIELDS", ["policy.policy_id"]),
        ("x", "permit (", "POLICY_INVALID", ["policy.cedar"]),
        ("x", PERMIT + PERMIT, "POLICY_INVALID", ["policy.cedar"]),
        ("x", "(" * 5000, "POLICY_INVALID", ["policy.cedar"]),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused(
    client: Client, policy_id: str, cedar: str, reason: str, fields: list[str]
) -> None:
    with pytest.raises(RemoteError) as refused:
        await client.create(policy_id, cedar)
    assert refused.value.reason == reason
    assert [violation.field for violation in refused.value.violations] == fields
    assert await client.ids() == []


async def test_the_parsers_own_words_say_what_is_wrong_with_a_policy(client: Client) -> None:
    with pytest.raises(RemoteError, match="unexpected token") as refused:
        await client.create("x", "permit (principal, action, resource) when { context.attempt === 1 };")
    assert refused.value.reason == "POLICY_INVALID"


async def test_validate_only_stores_nothing(world: World, client: Client) -> None:
    await client.create("dry", validate_only=True)
    assert await client.ids() == []
    assert await world.reason(world.permit()) == "POLICY_DENIED"


async def test_an_id_can_be_taken_once(client: Client) -> None:
    await client.create("one")
    for validate_only in (True, False):
        with pytest.raises(RemoteError) as refused:
            await client.create("one", validate_only=validate_only)
        assert refused.value.reason == "NAME_TAKEN"


async def test_deleting_needs_the_policy_as_it_was_read(client: Client) -> None:
    await client.create("kept")
    with pytest.raises(RemoteError) as refused:
        await client("DeletePolicy", messages.DeletePolicyRequest(policy_id="kept", etag="old"))
    assert refused.value.reason == "ETAG_MISMATCH"
    with pytest.raises(RemoteError) as missing:
        await client("DeletePolicy", messages.DeletePolicyRequest(policy_id="nowhere"))
    assert missing.value.reason == "POLICY_NOT_FOUND"
    assert await client.ids() == ["kept"]


async def test_policies_of_one_tenant_are_invisible_to_another(world: World, client: Client) -> None:
    await client.create("mine")
    stranger = Client(world, tenant="somebody-else")
    assert await stranger.ids() == []
    with pytest.raises(RemoteError) as missing:
        await stranger("GetPolicy", messages.GetPolicyRequest(policy_id="mine"))
    assert missing.value.reason == "POLICY_NOT_FOUND"


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.AUDITOR, Role.VIEWER, Role.WORKER, Role.SUBMITTER])
async def test_only_admins_change_policies(world: World, role: Role) -> None:
    with pytest.raises(RemoteError) as refused:
        await Client(world, role).create("mine")
    assert refused.value.reason == "ROLE_REQUIRED"


async def test_a_change_on_one_gateway_is_in_force_on_another_within_a_second(world: World) -> None:
    first = world.internal, world.public, world.sandbox
    async with gateway(world, slot="replica", internal_address=f"unix:{world.folder}/replica"):
        replica = world.internal
        world.internal, world.public, world.sandbox = first
        await Client(world).create("all")
        world.internal = replica

        async def passes() -> bool:
            return await world.reason(world.permit()) == ""

        await until(passes)
    world.internal, world.public, world.sandbox = first


async def test_a_forbid_of_tenant_system_holds_in_every_tenant(world: World, client: Client) -> None:
    await client.create("all")
    system = Client(world, tenant="system")
    forbid = f'forbid (principal, action, resource) when {{ context.submitter.tenant == "{world.tenant}" }};'
    await system.create("never", forbid)
    assert await world.reason(world.permit()) == "POLICY_DENIED"
    await system("DeletePolicy", messages.DeletePolicyRequest(policy_id="never"))
    assert await world.reason(world.permit()) == ""


ROWS = 'permit (principal, action, resource == Interlock::Tool::"echo") when { context.arguments.rows <= 9 };'
SCHEMA = {"type": "object", "properties": {"rows": {"type": "integer"}}, "required": ["rows"]}


async def updated(client: Client, policy_id: str, etag: str = "", **fields: Any) -> messages.Policy:
    policy = messages.Policy(policy_id=policy_id, etag=etag, **fields)
    request = messages.UpdatePolicyRequest(policy=policy, update_mask=FieldMask(paths=list(fields)))
    answer = await client("UpdatePolicy", request)
    stored: messages.Policy = answer.policy
    return stored


async def test_a_change_makes_a_new_version_and_every_version_stays_readable(
    world: World, client: Client
) -> None:
    first = await client.create("p", description="first")
    second = await updated(client, "p", first.etag, cedar=FORBID)
    assert (second.version, second.cedar, second.description) == (2, FORBID, "first")
    assert (second.create_time, second.creator) == (first.create_time, "ada")
    assert await world.reason(world.permit()) == "POLICY_DENIED"
    for etag, changes, reason in (
        (first.etag, {"description": "x"}, "ETAG_MISMATCH"),
        ("", {"cedar": "permit ("}, "POLICY_INVALID"),
        ("", {"description": "x" * 501}, "INVALID_FIELDS"),
        ("", {"creator": "eve"}, "INVALID_FIELDS"),
        ("", {}, "INVALID_FIELDS"),
    ):
        with pytest.raises(RemoteError) as refused:
            await updated(client, "p", etag, **changes)
        assert refused.value.reason == reason
    with pytest.raises(RemoteError) as refused:
        await updated(client, "nowhere", description="x")
    assert refused.value.reason == "POLICY_NOT_FOUND"

    await client("DeletePolicy", messages.DeletePolicyRequest(policy_id="p"))
    again = await client.create("p")
    assert again.version == 3
    versions = await client(
        "ListPolicyVersions", messages.ListPolicyVersionsRequest(policy_id="p", page_size=2)
    )
    assert [each.version for each in versions.versions] == [3, 2]
    rest = await client(
        "ListPolicyVersions",
        messages.ListPolicyVersionsRequest(policy_id="p", page_size=2, page_token=versions.next_page_token),
    )
    assert [each.cedar for each in rest.versions] == [PERMIT]
    old = await client("GetPolicy", messages.GetPolicyRequest(policy_id="p", version=2))
    assert old.policy.cedar == FORBID
    for version, reason in ((4, "POLICY_NOT_FOUND"), (-1, "INVALID_FIELDS")):
        with pytest.raises(RemoteError) as refused:
            await client("GetPolicy", messages.GetPolicyRequest(policy_id="p", version=version))
        assert refused.value.reason == reason


async def test_the_service_cannot_change_or_delete_a_version(world: World, client: Client) -> None:
    await client.create("p")
    for statement in ("UPDATE policy_version SET cedar = ''", "DELETE FROM policy_version"):
        with pytest.raises(InsufficientPrivilege):
            await world.sql(f"WITH gone AS ({statement} RETURNING 1) SELECT 1")


async def test_a_call_names_the_policies_in_shadow_mode_that_would_have_changed_it(
    world: World, client: Client
) -> None:
    await client.create("all")
    await client.create("never", FORBID, mode=messages.POLICY_MODE_SHADOW)
    permit = world.permit()
    assert await world.reason(permit) == ""
    call = await world.get(permit)
    assert (list(call.policy_ids), list(call.shadow_policy_ids)) == (["all@1"], ["never@1"])
    (allow,) = [each for each in call.verdicts if each.check == "allow"]
    assert "`never@1` would refuse it" in allow.explanation
    assert await shadowed(world, "never@1") == [call.call_id]
    assert await shadowed(world, "never@2") == []

    explained = await Client(world, Role.AUDITOR)(
        "ExplainDecision", messages.ExplainDecisionRequest(call_id=call.call_id)
    )
    await updated(client, "all", cedar="permit (principal, action, resource) when { true };")
    await client("DeletePolicy", messages.DeletePolicyRequest(policy_id="never"))
    again = await client("ExplainDecision", messages.ExplainDecisionRequest(call_id=call.call_id))
    assert explained == again
    assert [(each.version, each.cedar) for each in again.policies] == [(1, PERMIT)]
    assert [each.cedar for each in again.shadow_policies] == [FORBID]

    await client.create("never", FORBID)
    assert await world.reason(world.permit()) == "POLICY_DENIED"
    with pytest.raises(RemoteError) as missing:
        await client("ExplainDecision", messages.ExplainDecisionRequest(call_id=str(uuid.uuid4())))
    assert missing.value.reason == "TOOL_CALL_NOT_FOUND"


async def test_what_a_policy_reads_must_be_in_the_schema_of_the_tool_that_it_names(
    closed_world: World,
) -> None:
    version = closed_world.publish_tool(input_schema=SCHEMA)
    async with gateway(closed_world) as world:
        client = Client(world)
        for wrong, said in (("rows", "row"), ("<= 9", '== "9"')):
            with pytest.raises(RemoteError, match=r"echo 1\.0\.0") as refused:
                await client.create("p", ROWS.replace(wrong, said))
            assert refused.value.reason == "POLICY_INVALID"
        stored = await client.create("p", ROWS)
        assert not stored.misfits
        await client.create("of-another", ROWS.replace("echo", "other"))

        newer = tool_pb2.ToolVersion()
        newer.CopyFrom(version)
        newer.version = "2.0.0"
        newer.spec.input_schema_json = json.dumps({"type": "object", "properties": {"lines": {}}})
        tool = tool_pb2.Tool(name="echo", latest_version="2.0.0", status=tool_pb2.STATUS_ACTIVE)
        world.registry.publish(world.tenant, newer, tool)

        async def misfit() -> bool:
            read = await client("GetPolicy", messages.GetPolicyRequest(policy_id="p"))
            return [each.tool_version for each in read.policy.misfits] == ["2.0.0"]

        await until(misfit)
        request = messages.ListPoliciesRequest(tool="echo", tool_version="2.0.0")
        listed = (await client("ListPolicies", request)).policies
        assert [(each.policy_id, len(each.misfits)) for each in listed] == [("p", 1)]
        assert "`lines`" in listed[0].misfits[0].message
        # The text can be mended, and meanwhile everything else about it changed.
        with pytest.raises(RemoteError) as refused:
            await updated(client, "p", cedar=ROWS.replace("9", "8"))
        assert refused.value.reason == "POLICY_INVALID"
        assert (await updated(client, "p", mode=messages.POLICY_MODE_SHADOW)).version == 2
        for tool_name, reason in (("echo", "TOOL_VERSION_NOT_FOUND"), ("", "INVALID_FIELDS")):
            request = messages.ListPoliciesRequest(tool=tool_name, tool_version="9.0.0")
            with pytest.raises(RemoteError) as refused:
                await client("ListPolicies", request)
            assert refused.value.reason == reason


class _NoTools:
    """A registry without any."""

    def tool(self, *_: str) -> None:
        return None

    def tool_version(self, *_: str) -> None:
        return None

    async def fetch_tool_version(self, *_: str) -> None:
        return None


async def test_a_policy_ends_when_it_expires(gateway_database: ServiceDatabase) -> None:
    database, clock = Database(gateway_database.service_url), ManualClock()
    store, tenant = PolicyStore(database), "expiring"
    book = PolicyBook(store, clock, monotonic=lambda: 0.0)
    policies = Policies(store, book, PolicyFit(_NoTools()), clock, committed=lambda: None)
    question = Question(agent="a", agent_version="1.0.0", tool="t", arguments={}, attempt=1, submitter=None)

    def ending(cedar: str, seconds: int) -> PolicyContent:
        return PolicyContent(
            cedar=cedar,
            description="",
            mode=PolicyMode.ENFORCE,
            expire_time=clock.now() + timedelta(seconds=seconds),
        )

    for policy_id, content in (("may", ending(PERMIT, 60)), ("may-not", ending(FORBID, 10))):
        await policies.create(tenant, "ada", policy_id=policy_id, content=content, validate_only=False)
    seen = []
    for later in (9.9, 0.2, 49.8, 0.2):
        clock.advance(later)
        seen.append(book.decide(tenant, question).allowed)
    assert seen == [False, True, True, False]
    with pytest.raises(InvalidArgument, match="expire_time"):
        await policies.create(tenant, "ada", policy_id="late", content=ending(PERMIT, 0), validate_only=False)
    await database.close()


async def shadowed(world: World, policy: str) -> list[str]:
    """Ids of the calls that a policy in shadow mode would have changed."""
    stub = gateway_service_pb2_grpc.GatewayServiceStub(world.public)
    request = gateway_service_pb2.ListToolCallsRequest(filter=f'shadow_policy = "{policy}"')
    answer = await stub.ListToolCalls(request, metadata=world.token(Role.VIEWER))
    return [call.call_id for call in answer.tool_calls]
