"""Tasks that stand still: paused ones, and those that wait for a person."""

import json

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from svc_kit.identity import SYSTEM_TENANT, Role
from svc_kit.identity.principal import TENANT_KEY
from tests.orchestrator.peers import TENANT, payload
from tests.orchestrator.world import World, refused

PAUSED = task_pb2.TASK_STATE_PAUSED
SUBMITTED = task_pb2.TASK_STATE_SUBMITTED
INPUT_REQUIRED = task_pb2.TASK_STATE_INPUT_REQUIRED
BOOLEAN = '{"type": "boolean"}'


async def pause(world: World, task_id: str) -> task_pb2.Task:
    return (await world.people().PauseTask(messages.PauseTaskRequest(task_id=task_id))).task


async def resume(world: World, task_id: str) -> task_pb2.Task:
    return (await world.people().ResumeTask(messages.ResumeTaskRequest(task_id=task_id))).task


async def cancel(world: World, task_id: str) -> task_pb2.Task:
    return (await world.people().CancelTask(messages.CancelTaskRequest(task_id=task_id))).task


def answer(task_id: str, value: object, input_id: str = "") -> messages.ProvideInputRequest:
    return messages.ProvideInputRequest(task_id=task_id, input_id=input_id, answer_json=json.dumps(value))


async def test_a_waiting_task_is_paused_at_once_and_goes_on_before_all_others(world: World) -> None:
    older, task = await world.submit(), await world.submit()
    first = await pause(world, task.task_id)
    assert first.state == PAUSED and await pause(world, task.task_id) == first
    worker = world.worker()
    async with worker.session() as session:
        resumed = await resume(world, task.task_id)
        assert (resumed.state, resumed.wait_reason) == (SUBMITTED, task_pb2.WAIT_REASON_QUEUED)
        assert resumed.run_after == resumed.create_time
        assert await resume(world, task.task_id) == resumed
        assert [(await worker.must_claim(session)).task_id for _ in range(2)] == [task.task_id, older.task_id]


async def test_a_running_task_is_paused_when_its_worker_has_heard_and_given_it_back(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        asked = await pause(world, task.task_id)
        assert asked.state == task_pb2.TASK_STATE_RUNNING and asked.pause_requested
        assert await pause(world, task.task_id) == asked
        told = await session.directive(worker_service_pb2.DIRECTIVE_PAUSE, 1)
        assert told.attempt.task_id == task.task_id
        await worker.release(claimed)
        await worker.release(claimed)
        paused = await world.get(task.task_id)
        assert (paused.state, paused.attempts[0].outcome) == (PAUSED, "PAUSED")
        assert await worker.claim(session) is None
        await resume(world, task.task_id)
        second = await worker.must_claim(session)
        assert second.attempt == 2
        await worker.complete(second)
    kinds = [event.type for event in await world.history(task.task_id)]
    assert task_pb2.EVENT_TYPE_PAUSE_REQUESTED in kinds


async def test_a_pause_that_is_taken_back_in_time_costs_the_attempt_nothing(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await pause(world, task.task_id)
        await session.directive(worker_service_pb2.DIRECTIVE_PAUSE)
        assert not (await resume(world, task.task_id)).pause_requested
        await session.directive(worker_service_pb2.DIRECTIVE_CONTINUE)
        await worker.complete(claimed)
    assert (await world.get(task.task_id)).attempt == 1


@pytest.mark.parametrize("how", ["fail", "lose", "complete", "cancel"])
async def test_however_the_attempt_of_a_pausing_task_ends_it_does_not_run_again(
    world: World, how: str
) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await pause(world, task.task_id)
        match how:
            case "fail":
                assert await worker.fail(claimed) == PAUSED
            case "complete":
                await worker.complete(claimed)
                assert (await world.get(task.task_id)).state == task_pb2.TASK_STATE_COMPLETED
                error = await refused(
                    world.people().PauseTask(messages.PauseTaskRequest(task_id=task.task_id))
                )
                assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_STATE")
            case "cancel":
                assert (await cancel(world, task.task_id)).state == task_pb2.TASK_STATE_CANCELING
                await session.directive(worker_service_pb2.DIRECTIVE_CANCEL)
                assert await worker.fail(claimed) == task_pb2.TASK_STATE_CANCELED
    if how == "lose":
        assert (await world.until(task.task_id, PAUSED)).attempts[0].outcome == "LOST"
        assert (await cancel(world, task.task_id)).state == task_pb2.TASK_STATE_CANCELED


async def test_a_task_that_asks_gives_up_its_slot_and_has_the_answer_when_it_asks_again(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert not (await worker.ask(claimed, schema=BOOLEAN)).HasField("provided")
        assert not (await worker.ask(claimed, schema=BOOLEAN)).HasField("provided")
        assert (await refused(worker.complete(claimed))).reason == "STALE_ATTEMPT"
        parked = await world.get(task.task_id)
        assert (parked.state, parked.input_kind) == (INPUT_REQUIRED, task_pb2.INPUT_KIND_QUESTION)
        (open_request,) = parked.input_requests
        assert (open_request.input_id, open_request.prompt) == ("sure", "Are you sure?")
        people = world.people()
        error = await refused(people.ProvideInput(answer(task.task_id, "maybe")))
        assert error.reason == "INVALID_FIELDS" and error.violations[0].field == "answer_json"
        error = await refused(people.ResumeTask(messages.ResumeTaskRequest(task_id=task.task_id)))
        assert error.reason == "TASK_STATE"
        answered = (await people.ProvideInput(answer(task.task_id, True))).task
        assert answered.state == SUBMITTED
        assert (await people.ProvideInput(answer(task.task_id, True, "sure"))).task == answered
        error = await refused(people.ProvideInput(answer(task.task_id, False, "sure")))
        assert (error.code, error.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "INPUT_ALREADY_PROVIDED",
        )
        again = await worker.must_claim(session)
        provided = (await worker.ask(again, schema=BOOLEAN)).provided
        assert (provided.answer_json, provided.subject) == ("true", "ada@example.org")
        await worker.complete(again)
    types = [event.type for event in await world.history(task.task_id)]
    assert types.count(task_pb2.EVENT_TYPE_INPUT_PROVIDED) == 1
    trail = await world.peers.audit.of_task(task.task_id, 9)
    [said] = [event for event in trail if event.attributes.get("change") == "INPUT_PROVIDED"]
    assert (said.actor, said.attributes["input_id"]) == ("ada@example.org", "sure")
    assert payload(said, "answer") is True


async def test_an_answer_may_come_before_the_question_and_must_fit_it_all_the_same(world: World) -> None:
    task = await world.submit()
    people = world.people()
    await people.ProvideInput(answer(task.task_id, True, "good"))
    await people.ProvideInput(answer(task.task_id, "no boolean", "bad"))
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert (await worker.ask(claimed, "good", schema=BOOLEAN)).provided.answer_json == "true"
        assert not (await worker.ask(claimed, "bad", schema=BOOLEAN)).HasField("provided")
    assert (await world.get(task.task_id)).state == INPUT_REQUIRED
    assert (await people.ProvideInput(answer(task.task_id, False))).task.state == SUBMITTED


async def test_an_approval_is_answered_by_the_gateway_alone(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await worker.ask(claimed, "approval-1", kind=task_pb2.INPUT_KIND_APPROVAL)
    error = await refused(world.people().ProvideInput(answer(task.task_id, True)))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    assert (await cancel(world, task.task_id)).state == task_pb2.TASK_STATE_CANCELED
    error = await refused(world.people().ProvideInput(answer(task.task_id, True, "late")))
    assert error.reason == "TASK_STATE"


APPROVAL = task_pb2.INPUT_KIND_APPROVAL


async def decide(world: World, said: messages.ProvideInputRequest) -> task_pb2.Task:
    """As the gateway does once an approval is decided there."""
    gateway = world.people(Role.SERVICE, tenant=SYSTEM_TENANT, subject="gateway")
    return (await gateway.ProvideInput(said, metadata=((TENANT_KEY, TENANT),))).task


async def test_an_answer_given_before_an_approval_is_asked_decides_nothing(world: World) -> None:
    task = await world.submit()
    await world.people().ProvideInput(answer(task.task_id, True, "approval-1"))
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert not (await worker.ask(claimed, "approval-1", kind=APPROVAL)).HasField("provided")
        assert (await world.get(task.task_id)).input_kind == APPROVAL
        error = await refused(decide(world, answer(task.task_id, True)))
        assert (error.reason, error.violations[0].field) == ("INVALID_FIELDS", "input_id")
        await decide(world, answer(task.task_id, True, "approval-1"))
        claimed = await worker.must_claim(session)
        provided = (await worker.ask(claimed, "approval-1", kind=APPROVAL)).provided
        assert (provided.answer_json, provided.subject) == ("true", "gateway")


async def test_the_answer_to_a_question_is_no_decision_about_an_approval_of_the_same_id(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.ask(await worker.must_claim(session), "both")
        await world.people().ProvideInput(answer(task.task_id, True, "both"))
        claimed = await worker.must_claim(session)
        assert not (await worker.ask(claimed, "both", kind=APPROVAL)).HasField("provided")
        assert (await world.get(task.task_id)).state == INPUT_REQUIRED


async def test_a_decision_counts_for_the_very_request_that_it_was_about(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.ask(await worker.must_claim(session), "a", kind=APPROVAL, step_key="small")
        await decide(world, answer(task.task_id, True, "a"))
        claimed = await worker.must_claim(session)
        asked = await worker.ask(claimed, "a", kind=APPROVAL, step_key="large")
        assert not asked.HasField("provided")
        assert (await world.get(task.task_id)).state == INPUT_REQUIRED


async def test_a_decision_that_comes_first_overrules_what_others_said_and_counts(world: World) -> None:
    task = await world.submit()
    people = world.people()
    for said in (True, False):
        await people.ProvideInput(answer(task.task_id, True, f"a-{said}"))
        await decide(world, answer(task.task_id, said, f"a-{said}"))
    error = await refused(people.ProvideInput(answer(task.task_id, True, "a-False")))
    assert error.reason == "INPUT_ALREADY_PROVIDED"
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        for said in (True, False):
            provided = (await worker.ask(claimed, f"a-{said}", kind=APPROVAL)).provided
            assert (provided.answer_json, provided.subject) == (json.dumps(said), "gateway")


async def test_a_task_that_waits_for_a_person_may_be_paused_and_answered_meanwhile(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        await worker.ask(await worker.must_claim(session))
        assert (await pause(world, task.task_id)).state == PAUSED
        people = world.people(Role.SUBMITTER)
        assert (await people.ProvideInput(answer(task.task_id, 1, "sure"))).task.state == PAUSED
        await resume(world, task.task_id)
        assert (await worker.ask(await worker.must_claim(session))).provided.answer_json == "1"
