"""WatchTask: no gaps, no repeats, from any revision."""

import asyncio
import contextlib
from typing import Any

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from svc_kit.identity import Role
from tests.orchestrator.world import World, refused_stream, request


def watching(world: World, task_id: str, after: int = 0) -> Any:
    return world.people(Role.VIEWER).WatchTask(
        messages.WatchTaskRequest(task_id=task_id, after_revision=after)
    )


async def run_to_the_end(world: World, steps: int = 3) -> tuple[str, int]:
    """A completed task, and its last revision."""
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        for n in range(steps):
            begun = await worker.begin(claimed, f"step-{n}")
            await worker.record(claimed, worker.finished(begun, n))
        await worker.complete(claimed)
    return task.task_id, 3 + 2 * steps


async def test_a_watch_can_be_taken_up_after_every_revision_of_an_ended_task(world: World) -> None:
    task_id, last = await run_to_the_end(world)
    for after in range(1, last + 1):
        revisions = [message.event.revision async for message in watching(world, task_id, after)]
        assert revisions == list(range(after + 1, last + 1))
    snapshots = [message async for message in watching(world, task_id)]
    assert [message.snapshot.revision for message in snapshots] == [last]
    assert snapshots[0].snapshot.state == task_pb2.TASK_STATE_COMPLETED


async def test_a_revision_that_the_task_never_had_is_refused(world: World) -> None:
    task_id, last = await run_to_the_end(world, steps=0)
    error = await refused_stream(watching(world, task_id, last + 1))
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_INVALID")
    error = await refused_stream(watching(world, task_id, -1))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")


async def test_a_silent_task_is_bookmarked_with_its_last_revision(world: World) -> None:
    task = await world.submit()
    watch = aiter(watching(world, task.task_id))
    assert (await anext(watch)).snapshot.revision == 1
    async with asyncio.timeout(5):
        assert (await anext(watch)).bookmark.revision == 1


async def test_watchers_that_come_and_go_at_any_time_miss_nothing_and_see_nothing_twice(
    still_world: World,
) -> None:
    # Nothing here is about leases, and on a busy machine all of this may take longer than a short one.
    async with still_world.serving(lease_seconds=60) as world:
        await watchers_come_and_go(world)


async def watchers_come_and_go(world: World) -> None:
    task = await world.submit()
    seen: list[list[int]] = []

    async def watcher(breaks: float) -> None:
        """Watches, breaks off after a while, and resumes after the last revision it has."""
        revisions = [1]
        seen.append(revisions)
        while True:
            stream = watching(world, task.task_id, revisions[-1])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(breaks):
                    async for message in stream:
                        revisions += _revision(message)
                    return
            stream.cancel()

    async with asyncio.TaskGroup() as group:
        for n in range(12):
            group.create_task(watcher(0.02 + 0.037 * n))
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
            for n in range(40):
                begun = await worker.begin(claimed, f"step-{n}")
                await worker.record(claimed, worker.finished(begun, n))
            await worker.complete(claimed)
    assert all(revisions == list(range(1, 84)) for revisions in seen)


async def test_a_watch_that_starts_from_a_snapshot_goes_on_where_the_snapshot_stands(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    streams: list[Any] = []

    async def collect(stream: Any) -> list[int]:
        revisions = []
        async for message in stream:
            if message.HasField("snapshot"):
                revisions.append(message.snapshot.revision)
            elif message.HasField("event"):
                revisions.append(message.event.revision)
        return revisions

    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        for n in range(20):
            streams.append(asyncio.create_task(collect(watching(world, task.task_id))))
            begun = await worker.begin(claimed, f"step-{n}")
            await worker.record(claimed, worker.finished(begun, n))
        await worker.complete(claimed)
    for revisions in await asyncio.gather(*streams):
        assert revisions == list(range(revisions[0], 44))


async def test_events_written_by_another_process_arrive_too(world: World) -> None:
    task = await world.submit()
    watch = aiter(watching(world, task.task_id))
    await anext(watch)
    here = world.addresses
    async with world.serving(internal_address=f"unix:{world.folder}/in2.sock"):
        assert world.addresses != here
        await world.people().CancelTask(messages.CancelTaskRequest(task_id=task.task_id))
        async with asyncio.timeout(5):
            events = [message.event async for message in watch if message.HasField("event")]
    assert [event.state for event in events] == [task_pb2.TASK_STATE_CANCELED]


async def test_a_slow_consumer_is_ended_with_the_revision_to_resume_from(still_world: World) -> None:
    async with still_world.serving(watch_buffer=4) as world:
        # Many watchers that never read: the flow control of their one connection fills up.
        task = await world.submit()
        streams = [watching(world, task.task_id, 1) for _ in range(3)]
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
            for n in range(150):
                await worker.begin(claimed, f"{n:03}-" + "k" * 120)
            await worker.complete(claimed)
        for stream in streams:
            revisions = [1]
            try:
                async for message in stream:
                    revisions += _revision(message)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017 - one way to end
                rest = [m.event.revision async for m in watching(world, task.task_id, revisions[-1])]
                revisions += rest
            assert revisions == list(range(1, 154))


async def test_a_drain_ends_watches_with_draining_so_that_they_resume_elsewhere(still_world: World) -> None:
    async with still_world.serving() as world:
        task = await world.submit()
        watch = watching(world, task.task_id)
        await anext(aiter(watch))
        ended = asyncio.create_task(refused_stream(watch))
    error = await ended
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


@pytest.mark.slow
async def test_a_hundred_watchers_of_a_hundred_tasks_each_see_their_own(world: World) -> None:
    stub = world.people()
    answers = await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(100)))
    task_ids = [answer.task.task_id for answer in answers]

    async def states(task_id: str) -> list[int]:
        return [m.event.revision async for m in watching(world, task_id, 1) if m.HasField("event")]

    watches = [asyncio.create_task(states(task_id)) for task_id in task_ids]
    worker = world.worker()
    async with worker.session() as session:
        claims = await asyncio.gather(*(worker.must_claim(session) for _ in task_ids))
        await asyncio.gather(*(worker.complete(claimed) for claimed in claims))
    assert await asyncio.gather(*watches) == [[2, 3]] * 100


def _revision(message: messages.WatchTaskResponse) -> list[int]:
    return [message.event.revision] if message.HasField("event") else []
