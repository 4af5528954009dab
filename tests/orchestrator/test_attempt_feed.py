"""WatchAttempts: every live attempt first, then each change, for services alone."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc
from svc_kit.identity import Role
from tests.orchestrator.peers import TENANT
from tests.orchestrator.world import World, refused_stream


def watching(world: World, role: Role = Role.SERVICE) -> Any:
    channel = world.channel(
        world.addresses.internal, [role], "system" if role is Role.SERVICE else TENANT, "gateway"
    )
    stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)
    return stub.WatchAttempts(messages.WatchAttemptsRequest(), timeout=20)


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


@pytest.mark.parametrize("role", [Role.WORKER, Role.ADMIN, Role.SUPER_ADMIN])
async def test_attempts_of_all_tenants_are_for_services_alone(world: World, role: Role) -> None:
    assert (await refused_stream(watching(world, role))).reason == "ROLE_REQUIRED"
