"""WatchTasks: the list, then every change of it in the order of the commits; from any cursor."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psycopg
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from svc_kit.identity import Role
from tests.orchestrator.keeping import age, compact, delivered
from tests.orchestrator.peers import AGENT, OTHER_TENANT
from tests.orchestrator.world import World, refused_stream, request

SUBMITTED, CANCELED = task_pb2.TASK_STATE_SUBMITTED, task_pb2.TASK_STATE_CANCELED


class Listing:
    """A list of tasks kept by a stream, and the events it heard of; resumes where it is told."""

    def __init__(self, world: World, **fields: Any) -> None:
        self.world = world
        self.fields = fields
        self.states: dict[str, task_pb2.TaskState.ValueType] = {}
        self.heard: list[tuple[str, int]] = []
        self.cursor = ""
        self.bookmarks = 0

    def take(self, message: messages.WatchTasksResponse) -> None:
        """Apply one message."""
        self.cursor = message.cursor or self.cursor
        self.bookmarks += message.HasField("bookmark")
        if message.snapshot.first:
            self.states.clear()
        for task in message.snapshot.tasks:
            assert task.task_id not in self.states
            self.states[task.task_id] = task.state
        for change in message.changes.changes:
            task_id = change.event.task_id
            assert change.HasField("entered") == (task_id not in self.states)
            self.heard.append((task_id, change.event.revision))
            self.states[task_id] = change.event.state
            if change.left:
                del self.states[task_id]

    async def until(self, condition: Any, seconds: float = 10) -> None:
        """Follow from the cursor until the condition holds, then hang up."""
        stream = self.world.people(Role.VIEWER).WatchTasks(
            messages.WatchTasksRequest(cursor=self.cursor, **self.fields)
        )
        async with asyncio.timeout(seconds):
            async for message in stream:
                self.take(message)
                if condition(self):
                    break
        stream.cancel()


def ready(listing: Listing) -> bool:
    return bool(listing.cursor)


async def cancel(world: World, task_id: str) -> None:
    await world.people().CancelTask(messages.CancelTaskRequest(task_id=task_id))


async def ended(world: World, **fields: Any) -> Any:
    return await refused_stream(world.people(Role.VIEWER).WatchTasks(messages.WatchTasksRequest(**fields)))


async def test_a_list_is_kept_over_any_number_of_streams_without_gap_and_repeat(world: World) -> None:
    before = [(await world.submit()).task_id for _ in range(3)]
    listing = Listing(world)
    await listing.until(ready)
    assert listing.states == dict.fromkeys(before, SUBMITTED) and listing.heard == []
    after = []
    for number in range(6):
        after.append((await world.submit()).task_id)
        await cancel(world, before[number // 2] if number % 2 else after[-1])
        wanted = 2 * (number + 1)
        await listing.until(lambda each, n=wanted: len(each.heard) >= n)
    assert listing.heard == [
        pair
        for number, task_id in enumerate(after)
        for pair in ((task_id, 1), (before[number // 2] if number % 2 else task_id, 2))
    ]


async def test_a_task_that_ceases_to_meet_the_filter_is_told_and_one_that_begins_to_is_shown(
    world: World,
) -> None:
    waiting, ending = Listing(world, filter='state = "SUBMITTED"'), Listing(world, filter="state = CANCELED")
    first = (await world.submit(labels={"team": "blue"})).task_id
    await waiting.until(ready)
    await ending.until(ready)
    assert (waiting.states, ending.states) == ({first: SUBMITTED}, {})
    second = (await world.submit()).task_id
    await cancel(world, first)
    await waiting.until(lambda each: len(each.heard) == 2)
    await ending.until(lambda each: len(each.heard) == 1)
    assert waiting.states == {second: SUBMITTED}
    assert ending.states == {first: CANCELED} and ending.heard == [(first, 2)]


async def test_what_a_task_was_like_when_it_began_to_meet_the_filter_is_told(world: World) -> None:
    stream = world.people().WatchTasks(
        messages.WatchTasksRequest(filter=f'agent = "{AGENT}" AND task_type = "nightly"', from_now=True)
    )
    answers = aiter(stream)
    assert (await anext(answers)).HasField("bookmark")
    await world.submit()
    task = await world.submit(task_type="nightly", labels={"team": "blue"})
    (change,) = (await anext(answers)).changes.changes
    assert change.entered.labels == {"team": "blue"} and change.entered.agent == AGENT
    assert (change.entered.state, change.entered.revision) == (SUBMITTED, 1)
    assert (change.event.task_id, change.entered.queue) == (task.task_id, "default")
    stream.cancel()


async def test_no_tenant_hears_of_another_one(world: World) -> None:
    world.peers.registry.publish(AGENT, tenant=OTHER_TENANT)
    theirs = world.people(tenant=OTHER_TENANT)
    stream = theirs.WatchTasks(messages.WatchTasksRequest())
    answers = aiter(stream)
    assert not (await anext(answers)).snapshot.tasks
    await world.submit()
    assert (await anext(answers)).HasField("bookmark")
    stream.cancel()


async def test_a_silent_list_is_bookmarked_and_can_be_taken_up_there(world: World) -> None:
    listing = Listing(world, from_now=True)
    await listing.until(lambda each: each.bookmarks == 3)
    task = await world.submit()
    await listing.until(lambda each: bool(each.heard))
    assert listing.heard == [(task.task_id, 1)]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "é"])
async def test_a_damaged_cursor_is_refused_by_name(world: World, cursor: str) -> None:
    error = await ended(world, cursor=cursor)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert [violation.field for violation in error.violations] == ["cursor"]


async def test_a_cursor_of_another_filter_is_refused(world: World) -> None:
    listing = Listing(world)
    await listing.until(ready)
    error = await ended(world, cursor=listing.cursor, filter="state = FAILED")
    assert [violation.field for violation in error.violations] == ["cursor"]
    error = await ended(world, filter="dead_lettered = true")
    assert error.reason == "FILTER_INVALID"


async def test_after_a_restore_of_the_database_cursors_from_the_lost_history_are_known(world: World) -> None:
    listing = Listing(world)
    tasks = [(await world.submit()).task_id for _ in range(3)]
    await listing.until(ready)
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        # As a restore to before the last submit leaves it; then something else happens.
        await owner.execute("DELETE FROM task_event WHERE task_id = %s", [tasks[-1]])
        await owner.execute("UPDATE log_head SET position = position - 1")
        assert (await ended(world, cursor=listing.cursor)).reason == "CURSOR_INVALID"
        await world.submit()
        error = await ended(world, cursor=listing.cursor)
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_INVALID")
        await owner.execute("UPDATE log_head SET log_id = gen_random_uuid()")
        assert (await ended(world, cursor=listing.cursor)).reason == "CURSOR_INVALID"


async def test_a_restore_under_open_watches_ends_them(world: World) -> None:
    task = await world.submit()
    list_stream = world.people().WatchTasks(messages.WatchTasksRequest())
    stream = world.people().WatchTask(messages.WatchTaskRequest(task_id=task.task_id))
    await anext(aiter(list_stream))
    await anext(aiter(stream))
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        await owner.execute("DELETE FROM task_event")
        await owner.execute("UPDATE log_head SET position = 0")
    for each in (list_stream, stream):
        async with asyncio.timeout(10):
            assert (await refused_stream(each)).reason == "CURSOR_INVALID"


async def test_a_slow_consumer_is_ended_with_its_cursor_and_misses_nothing(still_world: World) -> None:
    async with still_world.serving(watch_tasks_buffer=4) as world:
        listing = Listing(world)
        stream = world.people().WatchTasks(messages.WatchTasksRequest())
        listing.take(await anext(aiter(stream)))
        labels = {f"label-{n}": "v" * 255 for n in range(32)}
        submitted = [
            answer.task.task_id
            for _ in range(10)
            for answer in await asyncio.gather(
                *(world.people().SubmitTask(request(labels=labels)) for _ in range(20))
            )
        ]
        # Nobody reads meanwhile: the connection fills up, then the buffer.
        error = await refused_stream(_each(stream, listing))
        assert (error.reason, error.metadata["cursor"]) == ("SLOW_CONSUMER", listing.cursor)
        # What is behind the buffer's size is read from the log.
        await listing.until(lambda each: len(each.heard) == 200)
        assert sorted(task_id for task_id, _ in listing.heard) == sorted(submitted)


async def _each(stream: Any, listing: Listing) -> AsyncIterator[None]:
    async for message in stream:
        listing.take(message)
        yield


async def test_a_snapshot_of_many_pages_taken_while_tasks_change_makes_one_list(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator_svc.watch_tasks._PAGE", 5)
    monkeypatch.setattr("orchestrator_svc.watch_tasks._PART", 2)
    tasks = [(await world.submit()).task_id for _ in range(40)]
    listing = Listing(world, filter='state = "SUBMITTED"')
    stop = asyncio.Event()

    async def disturb() -> None:
        for first, last in zip(tasks[:20], reversed(tasks), strict=False):
            await cancel(world, first)
            await world.submit()
            await cancel(world, last)
        stop.set()

    disturbing = asyncio.create_task(disturb())
    while not stop.is_set():
        one = Listing(world, filter='state = "SUBMITTED"')
        await one.until(ready)
        listing = one
    await disturbing
    await listing.until(lambda each: len(each.states) == 20)
    listed = await world.people().ListTasks(
        messages.ListTasksRequest(filter='state = "SUBMITTED"', page_size=1000)
    )
    assert set(listing.states) == {task.task_id for task in listed.tasks}
    assert len(listing.heard) == len(set(listing.heard))


async def test_old_events_of_ended_tasks_go_and_whoever_needs_them_is_told(world: World) -> None:
    over, live = await world.submit(), await world.submit()
    listing = Listing(world)
    await listing.until(ready)
    await cancel(world, over.task_id)
    young = await world.submit()
    await cancel(world, young.task_id)
    await delivered(world)
    await compact(world)
    assert len(await world.positions()) == 5  # nothing is old enough
    await age(world, 2)
    await compact(world)
    assert await world.positions() == [2]  # the event of the task that is not over
    people = world.people(Role.VIEWER)
    error = await refused_stream(
        people.WatchTask(messages.WatchTaskRequest(task_id=over.task_id, after_revision=1))
    )
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
    assert error.metadata["compact_revision"] == "2"
    at_end = [
        m async for m in people.WatchTask(messages.WatchTaskRequest(task_id=over.task_id, after_revision=2))
    ]
    (snapshot,) = [m async for m in people.WatchTask(messages.WatchTaskRequest(task_id=over.task_id))]
    assert at_end == [] and snapshot.snapshot.state == CANCELED
    events = await people.ListTaskEvents(messages.ListTaskEventsRequest(task_id=over.task_id))
    assert (list(events.events), events.compact_revision) == ([], 2)
    kept = await people.ListTaskEvents(messages.ListTaskEventsRequest(task_id=live.task_id))
    assert ([event.revision for event in kept.events], kept.compact_revision) == ([1], 0)
    error = await ended(world, cursor=listing.cursor)
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")


async def test_events_that_the_audit_log_has_not_heard_of_stay(world: World) -> None:
    first, second = await world.submit(), await world.submit()
    for each in (first, second):
        await cancel(world, each.task_id)
    await delivered(world)
    await age(world, 2)
    async with await psycopg.AsyncConnection.connect(world.database.owner_url, autocommit=True) as owner:
        # The relay leaves rows alone that are before what it has delivered.
        await owner.execute(
            "INSERT INTO outbox (seq, tenant, event_id, kind, body) VALUES (0, 'default', gen_random_uuid(),"
            " 'STATE_CHANGE', jsonb_build_object('task_id', %s::text, 'revision', 2, 'actor', 'a'))",
            [first.task_id],
        )
    await compact(world)
    events = await world.people().ListTaskEvents(messages.ListTaskEventsRequest(task_id=first.task_id))
    assert [event.revision for event in events.events] == [1, 2]
    events = await world.people().ListTaskEvents(messages.ListTaskEventsRequest(task_id=second.task_id))
    assert list(events.events) == []


async def test_the_service_itself_cannot_delete_young_events(world: World) -> None:
    task = await world.submit()
    await cancel(world, task.task_id)
    async with await psycopg.AsyncConnection.connect(
        world.database.service_url, autocommit=True
    ) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DELETE FROM task_event")
        with pytest.raises(psycopg.errors.RaiseException, match="kept for an hour"):
            await connection.execute("SELECT compact_events(0, 1000, 0)")
