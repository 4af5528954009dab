"""What attempts say of themselves: shown at any replica, fenced, and no part of the event log."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as work
from svc_kit.identity import Role
from tests.orchestrator.worker import Worker
from tests.orchestrator.world import World, refused


def watching(
    world: World, task_id: str, after: int = 0, *, progress: bool = True, role: Role = Role.AUDITOR
) -> AsyncIterator[Any]:
    asked = messages.WatchTaskRequest(task_id=task_id, after_revision=after, include_progress=progress)
    return aiter(world.people(role).WatchTask(asked))


async def said(watch: AsyncIterator[Any]) -> task_pb2.Progress:
    """The next word; bookmarks and events before it are passed over."""
    async with asyncio.timeout(10):
        async for update in watch:
            if update.HasField("progress"):
                word: task_pb2.Progress = update.progress
                return word
    raise AssertionError("the watch ended")


def word(claimed: work.ClaimedTask, number: int, message: str, **more: Any) -> work.AttemptProgress:
    return work.AttemptProgress(attempt_token=claimed.attempt_token, number=number, message=message, **more)


async def emit(worker: Worker, *words: work.AttemptProgress) -> list[int]:
    answer = await worker.stub.EmitProgress(work.EmitProgressRequest(progress=words))
    return list(answer.refused)


async def test_a_watcher_at_another_replica_hears_the_last_word_and_then_each_later_one(
    world: World,
) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert await emit(worker, word(claimed, 1, "begun", done=0.5)) == []
        async with world.serving(
            internal_address=f"unix:{world.folder}/in2.sock", public_address=f"unix:{world.folder}/out2.sock"
        ):
            watch = watching(world, task.task_id)
            heard = await said(watch)
            assert (heard.attempt, heard.number, heard.message, heard.done) == (1, 1, "begun", 0.5)
            assert await emit(worker, word(claimed, 2, "\x1b[31mtwo\nlines")) == []
            heard = await said(watch)
            assert (heard.message, heard.HasField("done")) == ("\x1b[31mtwo\nlines", False)
            # It is no event: nobody gets a revision for it, and who did not ask does not hear of it.
            plain = watching(world, task.task_id, 2, progress=False)
            await worker.complete(claimed)
            told = [update async for update in plain]
            assert [update.event.revision for update in told] == [3]
            assert (await world.get(task.task_id)).attempts[0].progress.number == 2


async def test_a_word_of_an_attempt_that_is_over_is_refused_and_the_others_are_shown(world: World) -> None:
    one, two = await world.submit(), await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        ended, live = await worker.must_claim(session), await worker.must_claim(session)
        assert (ended.task_id, live.task_id) == (one.task_id, two.task_id)
        await worker.complete(ended)
        forged = word(live, 5, "not mine")
        forged.attempt_token.signature = b"x" * 64
        absent = work.AttemptProgress(attempt_token=permit_pb2.Signed(), number=1, message="nobody's")
        words = [word(ended, 1, "too late"), word(live, 1, "here"), forged, absent]
        assert await emit(worker, *words) == [0, 2, 3]
        # Another worker cannot speak with a token that is not its own.
        thief = world.worker(subject="worker-2")
        assert await emit(thief, word(live, 9, "stolen")) == [0]
    assert not (await world.get(one.task_id)).attempts[0].HasField("progress")
    assert (await world.get(two.task_id)).attempts[0].progress.message == "here"


async def test_everything_wrong_with_what_is_said_is_named_at_once(world: World) -> None:
    await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        words = [word(claimed, 0, "a\0b", done=2), word(claimed, 1, "ü" * 1025, done=float("nan"))]
        error = await refused(worker.stub.EmitProgress(work.EmitProgressRequest(progress=words)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert [violation.field for violation in error.violations] == [
        "progress[0].number",
        "progress[0].message",
        "progress[0].done",
        "progress[1].message",
        "progress[1].done",
    ]


@pytest.mark.parametrize("after", [0, 2])
async def test_a_watch_that_is_taken_up_again_hears_the_last_word_of_the_live_attempt_alone(
    world: World, after: int
) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await emit(worker, word(claimed, 1, "of the first attempt"))
        await worker.stub.ReleaseTask(work.ReleaseTaskRequest(attempt_token=claimed.attempt_token))
        claimed = await worker.must_claim(session)
        watch = watching(world, task.task_id, after)
        await emit(worker, word(claimed, 1, "of the second"))
        heard = await said(watch)
        assert (heard.attempt, heard.message) == (2, "of the second")


async def test_a_word_that_was_overtaken_on_its_way_does_not_come_back(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert await emit(worker, word(claimed, 10, "newer")) == []
        # The attempt lives, so that it is not told to stop.
        assert await emit(worker, word(claimed, 9, "older")) == []
    assert (await world.get(task.task_id)).attempts[0].progress.message == "newer"


async def test_who_may_not_see_payloads_hears_how_far_an_agent_is_but_not_what_it_says(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await emit(worker, word(claimed, 1, "the salary is 7", done=0.5))
        for role, message in ((Role.VIEWER, ""), (Role.SUBMITTER, "the salary is 7")):
            heard = await said(watching(world, task.task_id, role=role))
            assert (heard.message, heard.done, heard.number) == (message, 0.5, 1)
            got = await world.people(role).GetTask(messages.GetTaskRequest(task_id=task.task_id))
            assert got.task.attempts[0].progress == heard


async def test_a_task_of_very_many_attempts_is_shown_with_the_last_words_of_the_last_of_them(
    world: World,
) -> None:
    task = await world.submit()
    await world.rows(
        "INSERT INTO attempt (task_id, attempt, tenant, worker, session_id, start_time, end_time, progress,"
        " progress_time) SELECT task_id, number, tenant, 'w', gen_random_uuid(), now(), now(),"
        " jsonb_build_object('number', 1, 'message', repeat('x', 2048), 'done', NULL), now()"
        " FROM task, generate_series(1, 2500) AS number RETURNING attempt"
    )
    attempts = (await world.get(task.task_id)).attempts
    assert [each.attempt for each in attempts if each.HasField("progress")] == list(range(2401, 2501))
    assert attempts[-1].progress.message == "x" * 2048
