"""WatchAttempts: every live attempt first, then each change, for services alone."""

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc
from svc_kit.identity import Role
from tests.orchestrator.peers import TENANT
from tests.orchestrator.world import World, refused_stream


def watching(world: World, role: Role = Role.SERVICE, asked: Sequence[str] = ()) -> Any:
    channel = world.channel(
        world.addresses.internal, [role], "system" if role is Role.SERVICE else TENANT, "gateway"
    )
    stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)
    return stub.WatchAttempts(messages.WatchAttemptsRequest(task_ids=asked), timeout=20)


async def standings(stream: Any, task_id: str) -> AsyncIterator[tuple[int, str]]:
    """Attempt and standing of one task, as they come; those said again are left out."""
    last = (0, "")
    async for message in stream:
        for change in message.changes:
            assert change.tenant == TENANT
            name = messages.AttemptStanding.Name(change.standing).removeprefix("ATTEMPT_STANDING_")
            if change.task_id == task_id and (change.attempt, name) != last:
                last = (change.attempt, name)
                yield last


async def test_an_attempt_is_told_from_its_claim_to_its_end_and_the_next_one_too(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    told = standings(watching(world), task.task_id)
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert await anext(told) == (1, "LIVE")
        await worker.release(claimed)
        assert await anext(told) == (1, "OVER")
        again = await worker.must_claim(session)
        assert await anext(told) == (2, "LIVE")
        await world.people(Role.DEVELOPER).CancelTask(messages.CancelTaskRequest(task_id=task.task_id))
        assert await anext(told) == (2, "CANCELING")
        await worker.release(again)
        assert await anext(told) == (2, "TASK_OVER")


async def test_who_begins_to_watch_hears_first_of_what_is_live_and_then_that_this_is_all(
    world: World,
) -> None:
    tasks = [await world.submit() for _ in range(3)]
    worker = world.worker()
    async with worker.session() as session:
        for _ in tasks:
            await worker.must_claim(session)
        live: set[str] = set()
        async for message in watching(world):
            live |= {change.task_id for change in message.changes}
            if message.up_to_date:
                break
        assert live >= {task.task_id for task in tasks}


async def test_who_asks_about_tasks_hears_how_they_stand_before_that_this_is_all(world: World) -> None:
    ended, waits = await world.submit(), await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.complete(await worker.must_claim(session))
        await worker.fail(await worker.must_claim(session))
    asked = [ended.task_id, waits.task_id, str(uuid.uuid4())]
    told: dict[str, messages.AttemptStanding.ValueType] = {}
    async for message in watching(world, asked=asked):
        told |= {change.task_id: change.standing for change in message.changes}
        if message.up_to_date:
            break
    assert told[ended.task_id] == messages.ATTEMPT_STANDING_TASK_OVER
    assert told[waits.task_id] == messages.ATTEMPT_STANDING_OVER
    assert asked[2] not in told


async def test_what_is_asked_about_must_be_tasks_and_not_too_many(world: World) -> None:
    error = await refused_stream(watching(world, asked=["x", str(uuid.uuid4()), ""]))
    assert [each.field for each in error.violations] == ["task_ids[0]", "task_ids[2]"]
    error = await refused_stream(watching(world, asked=[str(uuid.uuid4())] * 10_001))
    assert [each.field for each in error.violations] == ["task_ids"]


@pytest.mark.parametrize("role", [Role.WORKER, Role.ADMIN, Role.SUPER_ADMIN])
async def test_attempts_of_all_tenants_are_for_services_alone(world: World, role: Role) -> None:
    assert (await refused_stream(watching(world, role))).reason == "ROLE_REQUIRED"
