"""Every method for every role, absent and bad tokens, doors."""

import grpc
import pytest

from interlock.orchestrator.v1 import (
    orchestrator_service_pb2 as messages,
)
from interlock.orchestrator.v1 import (
    orchestrator_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)
from orchestrator_svc import servicer, worker_servicer
from svc_kit.clients import channel
from svc_kit.identity import LocalIssuer, Role, implied
from tests.orchestrator.world import World, refused, refused_stream, request

_METHODS = {
    "SubmitTask": messages.SubmitTaskRequest(),
    "GetTask": messages.GetTaskRequest(),
    "ListTasks": messages.ListTasksRequest(),
    "CancelTask": messages.CancelTaskRequest(),
    "PauseTask": messages.PauseTaskRequest(),
    "ResumeTask": messages.ResumeTaskRequest(),
    "ProvideInput": messages.ProvideInputRequest(),
    "RedriveTasks": messages.RedriveTasksRequest(max_tasks=-1),
    "RetryTask": messages.RetryTaskRequest(),
    "ListTaskSteps": messages.ListTaskStepsRequest(),
    "ExplainTask": messages.ExplainTaskRequest(),
    "GetPublicKeys": messages.GetPublicKeysRequest(),
}


async def test_every_method_takes_exactly_the_roles_that_it_names(world: World) -> None:
    for role in Role:
        tenant = "system" if role is Role.SERVICE else "default"
        stub = world.people(role, tenant=tenant)
        for method, empty in _METHODS.items():
            allowed = not implied({role}).isdisjoint(servicer.ROLES[method])
            # Whoever may call is told what is wrong with the empty request, or answered.
            code = await getattr(stub, method)(empty).code()
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == allowed, (role, method, code)
        for method, call in (
            ("PutBlob", stub.PutBlob(iter([messages.PutBlobRequest()]))),
            ("GetBlob", stub.GetBlob(messages.GetBlobRequest())),
        ):
            allowed = not implied({role}).isdisjoint(servicer.ROLES[method])
            assert (await call.code() is not grpc.StatusCode.PERMISSION_DENIED) == allowed, (role, method)


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
