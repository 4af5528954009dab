"""Steps whose outcome nobody knows: a person says what became of them, and the journal goes on from there."""

import json

import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from tests.orchestrator.worker import Session, Worker
from tests.orchestrator.world import World, refused

UNCERTAIN = task_pb2.INPUT_KIND_UNCERTAIN_STEP


async def lost(world: World, worker: Worker, session: Session) -> tuple[str, str]:
    """A task that waits for a word on its step `read`; its id, and the id of what it asks."""
    await world.submit()
    claimed = await worker.must_claim(session)
    begun = await worker.begin(claimed)
    asked = f"uncertain-{begun.start.call_id}"
    answer = await worker.ask(claimed, asked, kind=UNCERTAIN, step_key="read")
    assert not answer.HasField("provided")
    return claimed.task_id, asked


async def provide(world: World, task_id: str, said: object) -> None:
    request = messages.ProvideInputRequest(task_id=task_id, answer_json=json.dumps(said))
    await world.people().ProvideInput(request)


async def asked_again(
    worker: Worker, session: Session, asked: str
) -> tuple[worker_service_pb2.ClaimedTask, worker_service_pb2.RecordStepResponse]:
    """The next attempt, which hears from the gateway that it does not know; and the step after that."""
    claimed = await worker.must_claim(session)
    begun = await worker.begin(claimed)
    assert asked == f"uncertain-{begun.start.call_id}"
    for _ in range(2):
        assert (await worker.ask(claimed, asked, kind=UNCERTAIN, step_key="read")).HasField("provided")
    return claimed, await worker.begin(claimed)


async def test_what_happened_is_the_output_of_the_step(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, asked = await lost(world, worker, session)
        parked = await world.get(task_id)
        assert (parked.state, parked.input_kind) == (task_pb2.TASK_STATE_INPUT_REQUIRED, UNCERTAIN)
        await provide(world, task_id, {"decision": "HAPPENED", "output": {"rows": 3}})
        claimed, begun = await asked_again(worker, session, asked)
        assert begun.recorded.step.output_json == '{"rows":3}'
        await worker.complete(claimed)
    steps = [event.step.status for event in await world.history(task_id) if event.HasField("step")]
    assert steps.count(task_pb2.STEP_STATUS_COMPLETED) == 1


async def test_a_call_that_is_done_again_is_another_call_and_may_be_lost_like_the_first(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, asked = await lost(world, worker, session)
        await provide(world, task_id, {"decision": "REPEAT"})
        claimed, begun = await asked_again(worker, session, asked)
        second = f"uncertain-{begun.start.call_id}"
        assert second != asked
        assert not (await worker.ask(claimed, second, kind=UNCERTAIN, step_key="read")).HasField("provided")
        await provide(world, task_id, {"decision": "REPEAT"})
        claimed, third = await asked_again(worker, session, second)
        assert len({begun.start.call_id, third.start.call_id, asked.removeprefix("uncertain-")}) == 3
        # A receipt is good for the call that it names, and for no other one of the step.
        error = await refused(worker.record(claimed, worker.finished(begun, {"rows": 1})))
        assert error.reason == "SIGNATURE_INVALID"
        await worker.complete(claimed, finish=worker.finished(third, {"rows": 3}))
    assert (await world.get(task_id)).state == task_pb2.TASK_STATE_COMPLETED


async def test_a_step_that_is_to_fail_has_failed_in_every_attempt(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, asked = await lost(world, worker, session)
        await provide(world, task_id, {"decision": "FAIL"})
        _, begun = await asked_again(worker, session, asked)
        step = begun.recorded.step
        assert (step.status, step.error.error_class) == (task_pb2.STEP_STATUS_FAILED, "UNCERTAIN_STEP")
        assert "ada@example.org" in step.error.message


@pytest.mark.parametrize(
    "said",
    [
        "yes",
        {},
        {"decision": "MAYBE"},
        {"decision": "HAPPENED"},
        {"decision": "REPEAT", "output": 1},
        {"decision": "FAIL", "message": 1},
    ],
)
async def test_nothing_else_may_be_said_of_a_step(world: World, said: object) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, _ = await lost(world, worker, session)
        error = await refused(
            world.people().ProvideInput(
                messages.ProvideInputRequest(task_id=task_id, answer_json=json.dumps(said))
            )
        )
        assert error.reason == "INVALID_FIELDS" and error.violations[0].field == "answer_json"
        assert (await world.get(task_id)).state == task_pb2.TASK_STATE_INPUT_REQUIRED
        await world.people().CancelTask(messages.CancelTaskRequest(task_id=task_id))


async def test_a_worker_cannot_make_a_persons_word_good_for_another_step(world: World) -> None:
    worker = world.worker()
    async with worker.session() as session:
        task_id, asked = await lost(world, worker, session)
        await provide(world, task_id, {"decision": "HAPPENED", "output": 1})
        claimed = await worker.must_claim(session)
        await worker.begin(claimed, "other")
        assert (await worker.ask(claimed, asked, kind=UNCERTAIN, step_key="other")).HasField("provided")
        assert (await worker.begin(claimed, "other")).HasField("start")
        for wrong in ({"input_id": "other"}, {"step_key": ""}, {"schema": "{}"}):
            fields = {"input_id": asked, "step_key": "other", **wrong}
            error = await refused(worker.ask(claimed, kind=UNCERTAIN, **fields))
            assert error.reason == "INVALID_FIELDS"
        await worker.complete(claimed)
