"""WaitTask: until the end, or for so long; many at once; over a drain and a restored database."""

import asyncio
from typing import Any

import grpc
import psycopg
from google.protobuf.duration_pb2 import Duration

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, task_pb2
from svc_kit.identity import Role
from tests.orchestrator.peers import OTHER_TENANT
from tests.orchestrator.world import World, refused, refused_stream

UNKNOWN = "01900000-0000-7000-8000-000000000000"
SUBMITTED, RUNNING = task_pb2.TASK_STATE_SUBMITTED, task_pb2.TASK_STATE_RUNNING
COMPLETED, FAILED, CANCELED = (
    task_pb2.TASK_STATE_COMPLETED,
    task_pb2.TASK_STATE_FAILED,
    task_pb2.TASK_STATE_CANCELED,
)


def asked(task_id: str, seconds: float = 300) -> messages.WaitTaskRequest:
    timeout = Duration()
    timeout.FromMilliseconds(round(seconds * 1000))
    return messages.WaitTaskRequest(task_id=task_id, timeout=timeout)


async def waited(world: World, task_id: str, seconds: float = 300, **options: Any) -> task_pb2.Task:
    return (await world.people(Role.VIEWER).WaitTask(asked(task_id, seconds), **options)).task


async def cancel(world: World, task_id: str) -> None:
    await world.people().CancelTask(messages.CancelTaskRequest(task_id=task_id))


async def test_many_wait_for_tasks_that_end_well_badly_and_by_cancel_and_all_are_answered(
    world: World,
) -> None:
    tasks = [(await world.submit()).task_id for _ in range(3)]
    stub = world.people(Role.VIEWER)
    waits = [
        asyncio.create_task(_answer(stub.WaitTask(asked(task_id)))) for _ in range(50) for task_id in tasks
    ]
    worker = world.worker()
    async with worker.session() as session:
        claimed = {each.task_id: each for each in [await worker.must_claim(session) for _ in tasks]}
        await worker.complete(claimed[tasks[0]], {"rows": 7})
        await worker.fail(claimed[tasks[1]], retryable=False)
        await cancel(world, tasks[2])
        await worker.release(claimed[tasks[2]])
    answers = [answer.task for answer in await asyncio.gather(*waits)]
    assert [answer.state for answer in answers] == [COMPLETED, FAILED, CANCELED] * 50
    assert {answer.result_json for answer in answers[::3]} == {'{"rows":7}'}
    assert answers[1].error.error_class == "ValueError"
    # Whoever asks now is answered at once.
    for task_id, state in zip(tasks, (COMPLETED, FAILED, CANCELED), strict=True):
        assert (await waited(world, task_id)).state == state


async def _answer(call: Any) -> Any:
    return await call


async def test_a_wait_is_answered_at_its_time_out_with_the_task_as_it_is_then(world: World) -> None:
    task_id = (await world.submit()).task_id
    for seconds in (0, 0.1):
        assert (await waited(world, task_id, seconds)).state == SUBMITTED
    # The caller's own deadline is earlier: the answer comes before it.
    assert (await waited(world, task_id, timeout=1.0)).state == SUBMITTED
    assert (await waited(world, task_id, timeout=0.4)).state == SUBMITTED
    worker = world.worker()
    async with worker.session() as session:
        await worker.must_claim(session)
        assert (await waited(world, task_id, 0.1)).state == RUNNING


async def test_a_wait_without_a_deadline_is_answered_before_the_servers_own_one(still_world: World) -> None:
    async with still_world.serving(default_deadline_seconds=0.7) as world:
        task_id = (await world.submit()).task_id
        token = world.issuer.mint("ada", "default", [Role.VIEWER], 600)
        async with grpc.aio.insecure_channel(world.addresses.public) as bare:
            stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(bare)
            metadata = (("authorization", f"Bearer {token}"),)
            answer = await stub.WaitTask(messages.WaitTaskRequest(task_id=task_id), metadata=metadata)
    assert answer.task.state == SUBMITTED


async def test_a_wait_for_a_task_that_is_unknown_or_another_tenants_is_refused(world: World) -> None:
    task_id = (await world.submit()).task_id
    for stub, wanted in ((world.people(), UNKNOWN), (world.people(tenant=OTHER_TENANT), task_id)):
        for seconds in (0, 300):
            error = await refused(stub.WaitTask(asked(wanted, seconds)))
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")


async def test_everything_that_is_wrong_with_a_wait_is_named(world: World) -> None:
    for seconds in (-1, 301):
        error = await refused(world.people().WaitTask(asked("7", seconds)))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert [violation.field for violation in error.violations] == ["task_id", "timeout"]


async def test_a_drain_ends_waits_with_draining_so_that_they_go_on_elsewhere(still_world: World) -> None:
    # Longer than the test may take: the drain does not wait for them.
    async with still_world.serving(drain_seconds=3600) as world:
        task_id = (await world.submit()).task_id
        stub = world.people(Role.VIEWER)
        waits = [asyncio.create_task(refused(stub.WaitTask(asked(task_id)))) for _ in range(3)]
        await stub.WaitTask(asked(task_id, 0.1))
    for error in await asyncio.gather(*waits):
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_a_wait_goes_on_over_a_restore_of_the_database(world: World) -> None:
    task_id = (await world.submit()).task_id
    people = world.people(Role.VIEWER)
    wait = asyncio.create_task(waited(world, task_id))
    stream = people.WatchTask(messages.WatchTaskRequest(task_id=task_id))
    await anext(aiter(stream))
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        await owner.execute("DELETE FROM task_event")
        await owner.execute("UPDATE log_head SET position = 0")
    async with asyncio.timeout(10):
        assert (await refused_stream(stream)).reason == "CURSOR_INVALID"
    await cancel(world, task_id)
    assert (await wait).state == CANCELED
