"""ExplainTask: why a task is where it is; and reasons to wait that are found out for an answer."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import queue_service_pb2, task_pb2
from orchestrator_svc.explain import MOST, BlockerKind, Facts, explained
from orchestrator_svc.lifecycle import TaskState, WaitReason
from tests.orchestrator.test_queue_claims import make_queue, operators
from tests.orchestrator.world import World, refused

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_FREE = Facts(
    state=TaskState.SUBMITTED,
    wait_reason=WaitReason.QUEUED,
    run_after=_NOW,
    queue="q",
    pool="p",
    concurrency_key="",
    paused=False,
    max_running=None,
    max_running_per_key=1,
    running=0,
    running_of_key=0,
    token_seconds=None,
    workers=1,
    draining=0,
    free_slots=4,
    silent_session=None,
    ahead=0,
    ended=0,
    now=_NOW,
)


async def explain(world: World, task_id: str) -> messages.ExplainTaskResponse:
    return await world.people().ExplainTask(messages.ExplainTaskRequest(task_id=task_id))


def kinds(answer: messages.ExplainTaskResponse) -> list[str]:
    names = [messages.BlockerKind.Name(blocker.kind) for blocker in answer.blockers]
    return [name.removeprefix("BLOCKER_KIND_") for name in names]


def test_nothing_holds_back_the_first_of_a_free_queue() -> None:
    found = explained(_FREE)
    assert (found.position, found.blockers, found.start_time) == (1, (), _NOW)


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"paused": True}, BlockerKind.QUEUE_PAUSED, WaitReason.QUEUE_PAUSED),
        ({"max_running": 2, "running": 2}, BlockerKind.QUEUE_LIMIT, WaitReason.LIMITED),
        ({"concurrency_key": "k", "running_of_key": 1}, BlockerKind.KEY_LIMIT, WaitReason.LIMITED),
        ({"token_seconds": 3.0}, BlockerKind.RATE_LIMIT, WaitReason.LIMITED),
        ({"workers": 0}, BlockerKind.NO_WORKER, WaitReason.QUEUED),
        ({"draining": 1}, BlockerKind.WORKERS_DRAINING, WaitReason.QUEUED),
        ({"free_slots": 0}, BlockerKind.WORKERS_BUSY, WaitReason.QUEUED),
    ],
)
def test_each_thing_that_holds_a_task_back_is_named(
    changes: dict[str, object], kind: BlockerKind, reason: WaitReason
) -> None:
    found = explained(replace(_FREE, **changes))  # type: ignore[arg-type]
    assert [blocker.kind for blocker in found.blockers] == [kind]
    assert found.wait_reason is reason
    assert (found.start_time is not None) == (kind is BlockerKind.RATE_LIMIT)


def test_a_task_before_its_time_has_no_place_and_starts_when_that_has_come() -> None:
    later = _NOW + timedelta(seconds=60)
    for reason, kind in (
        (WaitReason.SCHEDULED, BlockerKind.NOT_BEFORE),
        (WaitReason.RETRY_BACKOFF, BlockerKind.BACK_OFF),
    ):
        found = explained(replace(_FREE, run_after=later, wait_reason=reason))
        assert (found.position, found.blockers[0].kind, found.start_time) == (0, kind, later)


def test_an_estimate_rests_on_what_ended_lately_or_is_honestly_none() -> None:
    found = explained(replace(_FREE, ahead=29, ended=300))
    assert found.start_time == _NOW + timedelta(seconds=30) and "29 ahead" in found.basis
    assert explained(replace(_FREE, ahead=29)).start_time is None
    assert explained(replace(_FREE, ahead=MOST + 1, ended=300)).start_time is None


async def test_the_place_counts_priorities_turns_and_age(world: World) -> None:
    mine = []
    for key in ("a", "a", "a", "b"):
        mine.append((await world.submit(fairness_key=key)).task_id)
    urgent = (await world.submit(priority=8)).task_id
    # Of key b one turn at most comes before the third of key a, of its own key two.
    answers = [(await explain(world, task_id)).position for task_id in [*mine, urgent]]
    assert answers[4] == 1
    assert answers[0] == 3 and answers[2] == 5 and answers[3] == 3
    answer = await explain(world, mine[0])
    assert kinds(answer) == ["NO_WORKER"] and not answer.estimate.HasField("start_time")


async def test_limits_and_pauses_are_explained_with_their_numbers_and_shown_as_the_reason_to_wait(
    world: World,
) -> None:
    await make_queue(world, max_running=1)
    tasks = [(await world.submit(queue="narrow", concurrency_key="k")).task_id for _ in range(2)]
    worker, stub = world.worker(), operators(world)
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        waiting = next(task_id for task_id in tasks if task_id != claimed.task_id)
        answer = await explain(world, waiting)
        assert kinds(answer) == ["QUEUE_LIMIT", "KEY_LIMIT"]
        assert [(each.limit, each.used) for each in answer.blockers] == [(1, 1), (1, 1)]
        assert answer.wait_reason == task_pb2.WAIT_REASON_LIMITED
        assert (await world.get(waiting)).wait_reason == task_pb2.WAIT_REASON_LIMITED
        await stub.PauseQueue(queue_service_pb2.PauseQueueRequest(name="narrow"))
        assert kinds(await explain(world, waiting))[0] == "QUEUE_PAUSED"
        listed = (await world.people().ListTasks(messages.ListTasksRequest())).tasks
        reasons = {task.task_id: task.wait_reason for task in listed}
        assert reasons[waiting] == task_pb2.WAIT_REASON_QUEUE_PAUSED
        assert reasons[claimed.task_id] == task_pb2.WAIT_REASON_UNSPECIFIED
        await stub.ResumeQueue(queue_service_pb2.ResumeQueueRequest(name="narrow"))
        await worker.complete(claimed)
        assert (await world.get(waiting)).wait_reason == task_pb2.WAIT_REASON_QUEUED
        assert kinds(await explain(world, waiting)) == []


async def test_a_task_of_another_tenant_or_of_nobody_is_not_explained(world: World) -> None:
    task = await world.submit()
    for stub, task_id in (
        (world.people(tenant="acme"), task.task_id),
        (world.people(), "01900000-0000-7000-8000-00000000ffff"),
    ):
        error = await refused(stub.ExplainTask(messages.ExplainTaskRequest(task_id=task_id)))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
