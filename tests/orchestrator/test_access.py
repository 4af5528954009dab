"""Every method for every role, absent and bad tokens, doors."""

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from interlock.orchestrator.v1 import (
    orchestrator_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from orchestrator_svc import queue_servicer, servicer, worker_servicer
from svc_kit.clients import channel
from svc_kit.identity import LocalIssuer, Role, implied
from tests.orchestrator.world import World, refused, refused_stream, request

_PEOPLE = ((servicer.NAME, servicer.ROLES), (queue_servicer.NAME, queue_servicer.ROLES))


@pytest.mark.parametrize("role", sorted(Role))
async def test_every_method_takes_exactly_the_roles_that_it_names(world: World, role: Role) -> None:
    tenant = "system" if role is Role.SERVICE else "default"
    opened = world.channel(world.addresses.internal, [role], tenant, "someone")
    for name, roles in _PEOPLE:
        methods = descriptor_pool.Default().FindServiceByName(name).methods
        assert {method.name for method in methods} == set(roles)
        for method in methods:
            allowed = not implied({role}).isdisjoint(roles[method.name])
            # Whoever may call is told what is wrong with the empty request, or answered.
            code = await _code_of_an_empty_call(opened, method)
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == allowed, (method.name, code)


async def _code_of_an_empty_call(opened: grpc.aio.Channel, method: Any) -> grpc.StatusCode:
    kind = "_".join(
        "stream" if each else "unary" for each in (method.client_streaming, method.server_streaming)
    )
    empty = GetMessageClass(method.input_type)()
    stub: Any = getattr(opened, kind)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=type(empty).SerializeToString,
    )
    call = stub(iter([empty]) if method.client_streaming else empty)
    try:
        await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    call.cancel()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", sorted(worker_servicer.ROLES))
async def test_nobody_but_a_worker_gets_at_the_worker_service(world: World, method: str) -> None:
    for role in set(Role) - {Role.WORKER}:
        tenant = "system" if role in (Role.SERVICE, Role.SUPER_ADMIN) else "default"
        opened = world.channel(world.addresses.internal, [role], tenant, "someone")
        call = getattr(worker_service_pb2_grpc.WorkerServiceStub(opened), method)
        if method == "WorkerSession":
            error = await refused_stream(call())
        elif method == "PutResultBlob":
            error = await refused(call())
        elif method == "GetInputBlob":
            error = await refused_stream(call(worker_service_pb2.GetInputBlobRequest()))
        else:
            error = await refused(call(getattr(worker_service_pb2, f"{method}Request")()))
        assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")


async def test_the_worker_service_is_closed_on_the_public_door(world: World) -> None:
    opened = world.channel(world.addresses.public, [Role.WORKER], "system", "worker-1")
    stub = worker_service_pb2_grpc.WorkerServiceStub(opened)
    error = await refused(stub.ClaimTask(worker_service_pb2.ClaimTaskRequest()))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "INTERNAL_DOOR")


async def test_absent_expired_and_foreign_tokens_are_refused(world: World) -> None:
    foreign = LocalIssuer(world.folder / "foreign.pem", "another-suite")
    tokens = {
        "TOKEN_MISSING": "",
        "TOKEN_INVALID": foreign.mint("ada", "default", [Role.DEVELOPER], 600),
        "TOKEN_EXPIRED": world.issuer.mint("ada", "default", [Role.DEVELOPER], -60),
    }
    for reason, token in tokens.items():
        async with channel(world.addresses.public, (lambda t=token: t) if token else None) as opened:  # type: ignore[misc]
            stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(opened)
            error = await refused(stub.SubmitTask(request()))
            assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_a_worker_whose_token_names_no_such_pool_is_refused(world: World) -> None:
    worker = world.worker(pools=[("default", "other")])
    opened = worker_service_pb2.OpenSession(
        session_id="01900000-0000-7000-8000-000000000001", slot="s", pools=["default"], capacity=1
    )
    stream = worker.stub.WorkerSession()
    await stream.write(worker_service_pb2.WorkerSessionRequest(open=opened))
    error = await refused_stream(stream)
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "POOL_FORBIDDEN")


async def test_a_worker_claims_tasks_of_the_tenants_that_its_token_names_alone(world: World) -> None:
    await world.submit()
    stranger = world.worker(subject="worker-acme", pools=[("acme", "default")])
    async with stranger.session(slot="acme/0") as session:
        assert await stranger.claim(session) is None
    worker = world.worker()
    async with worker.session() as session:
        assert await worker.claim(session) is not None
