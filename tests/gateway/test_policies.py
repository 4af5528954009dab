"""Policies as a resource of their tenant."""

from typing import Any

import grpc
import pytest

from interlock.gateway.v1 import policy_service_pb2 as messages
from interlock.gateway.v1 import policy_service_pb2_grpc
from svc_kit.identity import Role
from svc_kit.status import RemoteError, from_rpc_error
from tests.gateway.world import World, gateway, payload, until

PERMIT = "permit (principal, action, resource);"


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
