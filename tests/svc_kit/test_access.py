from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.clients import channel
from svc_kit.errors import PermissionDenied
from svc_kit.identity import LocalIssuer, Principal, Role, acting_tenant, principal
from svc_kit.identity.principal import TENANT_KEY
from svc_kit.server import Addresses
from svc_kit.status import RemoteError, from_rpc_error
from tests.svc_kit.conftest import Connect
from tests.svc_kit.kit_service import KitService, KitStub, full_name

HELLO = StringValue(value="hello")


async def refusal(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_call_with_a_good_token_is_answered_and_knows_its_caller(
    kit: KitService, viewer: KitStub
) -> None:
    seen: list[Principal] = []

    async def remember(request: StringValue, context: Any) -> StringValue:
        seen.append(principal())
        return request

    kit.does["Echo"] = remember
    assert (await viewer.Echo(HELLO)).value == "hello"
    assert (seen[0].subject, seen[0].tenant, seen[0].roles) == ("ada", "default", frozenset({Role.VIEWER}))
    with pytest.raises(LookupError):
        principal()


async def test_a_streaming_call_knows_its_caller_too(kit: KitService, viewer: KitStub) -> None:
    async def tell(request: StringValue, context: Any) -> Any:
        yield StringValue(value=principal().subject)

    kit.does["Tail"] = tell
    assert [reply.value async for reply in viewer.Tail(HELLO)] == ["ada"]


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "TOKEN_MISSING"),
        ("", "TOKEN_INVALID"),
        ("Bearer", "TOKEN_MISSING"),
        ("Bearer ", "TOKEN_MISSING"),
        ("Bearer nonsense", "TOKEN_INVALID"),
        ("Basic YTpi", "TOKEN_INVALID"),
    ],
)
async def test_a_call_without_a_good_bearer_token_is_unauthenticated(
    addresses: Addresses, connect: Connect, authorization: str | None, reason: str
) -> None:
    metadata = () if authorization is None else (("authorization", authorization),)
    error = await refusal(connect(addresses.public).Echo(HELLO, metadata=metadata))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_the_scheme_of_the_authorization_is_read_in_any_case(
    addresses: Addresses, connect: Connect, issuer: LocalIssuer
) -> None:
    token = issuer.mint("ada", "default", [Role.VIEWER], 60)
    reply = await connect(addresses.public).Echo(HELLO, metadata=(("authorization", f"bEARER {token}"),))
    assert reply.value == "hello"


async def test_two_authorizations_are_refused(
    addresses: Addresses, connect: Connect, issuer: LocalIssuer
) -> None:
    token = f"Bearer {issuer.mint('ada', 'default', [Role.VIEWER], 60)}"
    twice = (("authorization", token), ("authorization", token))
    assert (await refusal(connect(addresses.public).Echo(HELLO, metadata=twice))).reason == "TOKEN_INVALID"


async def test_expired_and_foreign_tokens_are_refused_at_the_door(
    addresses: Addresses, issuer: LocalIssuer, tmp_path: Any
) -> None:
    foreign = LocalIssuer(tmp_path / "other.pem", "kit")
    for token, reason in (
        (issuer.mint("ada", "default", [Role.VIEWER], -60), "TOKEN_EXPIRED"),
        (foreign.mint("ada", "default", [Role.VIEWER], 60), "TOKEN_INVALID"),
    ):
        async with channel(addresses.public, lambda token=token: token) as made:  # type: ignore[misc]
            error = await refusal(KitStub(made).Echo(HELLO))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.SUBMITTER, Role.WORKER])
async def test_a_role_that_the_method_does_not_name_is_refused(
    addresses: Addresses, connect: Connect, role: Role
) -> None:
    error = await refusal(connect(addresses.public, role).Echo(HELLO))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    assert error.metadata == {"method": full_name("Echo"), "needs": "VIEWER"}


@pytest.mark.parametrize("role", [Role.VIEWER, Role.DEVELOPER, Role.ADMIN, Role.SUPER_ADMIN])
async def test_roles_above_the_named_one_are_enough(
    addresses: Addresses, connect: Connect, role: Role
) -> None:
    assert (await connect(addresses.public, role).Echo(HELLO)).value == "hello"


@pytest.mark.parametrize("method", ["Inside", "Unstated"])
async def test_a_method_that_is_not_public_is_served_on_the_internal_door_alone(
    addresses: Addresses, connect: Connect, service: KitStub, method: str
) -> None:
    assert (await getattr(service, method)(HELLO)).value == "hello"
    at_public = connect(addresses.public, Role.SERVICE, tenant="system")
    error = await refusal(getattr(at_public, method)(HELLO))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "INTERNAL_DOOR")


async def test_the_internal_door_serves_public_methods_and_asks_for_a_token_too(
    addresses: Addresses, connect: Connect
) -> None:
    assert (await connect(addresses.internal, Role.VIEWER).Echo(HELLO)).value == "hello"
    assert (await refusal(connect(addresses.internal).Inside(HELLO))).reason == "TOKEN_MISSING"
    assert (
        await refusal(connect(addresses.internal, Role.SUPER_ADMIN).Inside(HELLO))
    ).reason == "ROLE_REQUIRED"


@pytest.mark.parametrize("door", ["public", "internal"])
async def test_health_is_answered_per_service_and_without_a_token(addresses: Addresses, door: str) -> None:
    async with channel(getattr(addresses, door)) as made:
        stub: Any = health_pb2_grpc.HealthStub(made)
        for name in ("", "interlock.kittest.v1.KitService"):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        error = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
        assert error.code is grpc.StatusCode.NOT_FOUND


async def test_a_caller_acts_for_the_own_tenant_unless_it_covers_all(
    kit: KitService, viewer: KitStub, service: KitStub
) -> None:
    async def tell(request: StringValue, context: Any) -> StringValue:
        return StringValue(value=acting_tenant(request.value))

    kit.does |= {"Echo": tell, "Inside": tell}
    assert (await viewer.Echo(StringValue())).value == "default"
    assert (await viewer.Echo(StringValue(value="default"))).value == "default"
    assert (await refusal(viewer.Echo(StringValue(value="acme")))).reason == "TENANT_FORBIDDEN"
    assert (await service.Inside(StringValue(value="acme"))).value == "acme"


async def test_who_covers_several_tenants_may_name_one_in_the_metadata(
    kit: KitService, viewer: KitStub, service: KitStub
) -> None:
    async def tell(request: StringValue, context: Any) -> StringValue:
        return StringValue(value=acting_tenant(request.value))

    kit.does |= {"Echo": tell, "Inside": tell}
    named = ((TENANT_KEY, "acme"),)
    assert (await service.Inside(StringValue(), metadata=named)).value == "acme"
    assert (await service.Inside(StringValue(value="other"), metadata=named)).value == "other"
    assert (await refusal(viewer.Echo(StringValue(), metadata=named))).reason == "TENANT_FORBIDDEN"


async def test_a_refusal_by_the_domain_keeps_its_own_reason(kit: KitService, viewer: KitStub) -> None:
    async def refuse(request: StringValue, context: Any) -> StringValue:
        raise PermissionDenied(ErrorReason.ERROR_REASON_TOOL_NOT_BOUND, "not bound")

    kit.does["Echo"] = refuse
    assert (await refusal(viewer.Echo(HELLO))).reason == "TOOL_NOT_BOUND"
