"""RecordStep and GetStepOutput: the journal over attempts, permits, receipts."""

import asyncio
import json
import uuid
from datetime import UTC

import grpc

from interlock.audit.v1 import entry_pb2
from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from interlock.registry.v1 import agent_pb2
from svc_kit.permits import verify_step_permit
from svc_kit.signing import KeyRing
from svc_kit.strict_json import digest
from tests.orchestrator.peers import AGENT, TOOL, UNBOUND_TOOL, spec
from tests.orchestrator.world import World, refused


async def test_a_begun_step_comes_with_a_permit_for_exactly_this_call(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        begun = await worker.begin(claimed, "read", {"rows": 3, "path": "a.csv"})
    assert begun.start.input_json == '{"path":"a.csv","rows":3}'
    assert begun.start.call_id == str(uuid.uuid5(uuid.UUID(task.task_id), "read"))
    keys = (await world.people().GetPublicKeys(messages.GetPublicKeysRequest())).keys
    assert {key.use for key in keys} == {"attempt", "permit"}
    now = task.create_time.ToDatetime(tzinfo=UTC)
    permit = verify_step_permit(KeyRing(keys), begun.start.permit, now=now, worker_subject="worker-1")
    version = world.peers.registry.versions["default", AGENT, "1.0.0"]
    assert (permit.tenant, permit.task_id, permit.step_key, permit.attempt) == (
        "default",
        task.task_id,
        "read",
        1,
    )
    assert (permit.agent, permit.agent_version, permit.agent_digest) == (AGENT, "1.0.0", version.digest)
    assert (permit.tool, permit.tool_version) == (TOOL, "1.0.0")
    assert permit.tool_digest == version.spec.tools[0].digest
    assert permit.argument_digest == digest(begun.start.input_json.encode())
    assert [(each.tenant, each.subject, list(each.roles)) for each in permit.submitters] == [
        ("default", "ada@example.org", ["DEVELOPER"])
    ]
    assert 60 <= permit.expire_time.seconds - task.create_time.seconds <= 90


async def test_finishing_a_step_and_beginning_the_next_is_one_call(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        first = await worker.begin(claimed, "one")
        second = await worker.begin(claimed, "two", finish=worker.finished(first, [1]))
        await worker.complete(claimed, finish=worker.finished(second, [2]))
    steps = (await world.people().ListTaskSteps(_steps(task.task_id))).steps
    assert [(step.step_key, step.status, step.output_json) for step in steps] == [
        ("one", task_pb2.STEP_STATUS_COMPLETED, "[1]"),
        ("two", task_pb2.STEP_STATUS_COMPLETED, "[2]"),
    ]
    events = [event for event in await world.history(task.task_id) if event.HasField("step")]
    assert [(event.step.step_key, event.type) for event in events] == [
        ("one", task_pb2.EVENT_TYPE_STEP_STARTED),
        ("one", task_pb2.EVENT_TYPE_STEP_FINISHED),
        ("two", task_pb2.EVENT_TYPE_STEP_STARTED),
        ("two", task_pb2.EVENT_TYPE_STEP_FINISHED),
    ]
    assert not any(event.step.input_json or event.step.output_json for event in events)


async def test_the_next_attempt_takes_finished_steps_from_the_journal_and_repeats_the_others(
    world: World,
) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        one = await worker.begin(claimed, "one")
        two = await worker.begin(claimed, "two", finish=worker.finished(one, {"n": 1}))
        await worker.release(claimed)
        again = await worker.must_claim(session)
        assert (again.attempt, list(again.finished_steps)) == (2, ["one"])
        recorded = await worker.begin(again, "one")
        assert json.loads(recorded.recorded.step.output_json) == {"n": 1}
        output = await worker.stub.GetStepOutput(
            worker_service_pb2.GetStepOutputRequest(attempt_token=again.attempt_token, step_key="one")
        )
        assert output.step == recorded.recorded.step
        repeated = await worker.begin(again, "two")
        assert repeated.start.call_id == two.start.call_id
        await worker.complete(again, finish=worker.finished(repeated, {"n": 2}))
    steps = (await world.people().ListTaskSteps(_steps(task.task_id))).steps
    assert [(step.step_key, step.attempt, step.ordinal) for step in steps] == [("one", 1, 1), ("two", 2, 2)]


async def test_the_same_call_again_writes_nothing_and_answers_the_same(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        answers = await asyncio.gather(*(worker.begin(claimed) for _ in range(8)))
        assert len({answer.start.call_id for answer in answers}) == 1
        finish = worker.finished(answers[0], [1])
        await asyncio.gather(*(worker.record(claimed, finish) for _ in range(8)))
        await worker.complete(claimed)
        await worker.complete(claimed)
    assert (await world.get(task.task_id)).revision == 5


async def test_another_input_for_a_known_step_is_nondeterminism(world: World) -> None:
    await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await worker.begin(claimed, "read", {"path": "a.csv"})
        error = await refused(worker.begin(claimed, "read", {"path": "b.csv"}))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NONDETERMINISM")
        assert error.metadata["step_key"] == "read"


async def test_an_unbound_tool_is_refused_leaves_no_step_and_stands_in_the_audit_log(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        error = await refused(worker.begin(claimed, "harm", tool=UNBOUND_TOOL))
        assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "TOOL_NOT_BOUND")
    assert not (await world.people().ListTaskSteps(_steps(task.task_id))).steps
    told = (await world.peers.audit.of_task(task.task_id, 4))[3]
    assert (told.type, told.status, told.reason) == (
        entry_pb2.ENTRY_TYPE_TOOL_CALL,
        "REFUSED",
        "TOOL_NOT_BOUND",
    )
    assert (told.tool, told.step_key, told.actor) == (UNBOUND_TOOL, "harm", "worker-1")


async def test_a_model_call_gets_a_permit_for_the_connection_that_its_agent_names_and_no_other(
    world: World,
) -> None:
    content = spec(llm=agent_pb2.LlmRuntime(instructions="Help.", connection="provider", model="small"))
    world.peers.registry.publish("helper", content=content)
    task = await world.submit(agent="helper")
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        begun = await worker.begin(
            claimed, "m1", {"messages": []}, tool="provider", kind=task_pb2.STEP_KIND_MODEL_CALL
        )
        elsewhere = worker.begin(claimed, "m2", {}, tool="other", kind=task_pb2.STEP_KIND_MODEL_CALL)
        error = await refused(elsewhere)
        assert (error.code, error.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "CONNECTION_NOT_BOUND",
        )
        # A tool step of the same name is another thing.
        error = await refused(worker.begin(claimed, "t1", {}, tool="provider"))
        assert error.reason == "TOOL_NOT_BOUND"
    permit = permit_pb2.StepPermit.FromString(begun.start.permit.payload)
    assert (permit.connection, permit.tool, permit.tool_digest) == ("provider", "", "")
    (step,) = (await world.people().ListTaskSteps(_steps(task.task_id))).steps
    assert (step.kind, step.name) == (task_pb2.STEP_KIND_MODEL_CALL, "provider")
    told = (await world.peers.audit.of_task(task.task_id, 4))[3]
    assert (told.type, told.tool) == (entry_pb2.ENTRY_TYPE_PROMPT, "")
    assert told.attributes["connection"] == "other"


async def test_outputs_are_taken_with_the_receipt_of_the_gateway_alone(world: World) -> None:
    await world.submit()
    await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed, other = await worker.must_claim(session), await worker.must_claim(session)
        begun, foreign = await worker.begin(claimed), await worker.begin(other)
        good = worker.finished(begun, {"rows": 3})

        forged = worker_service_pb2.FinishStep()
        forged.CopyFrom(good)
        forged.output_json = '{"rows":4}'
        tampered = worker_service_pb2.FinishStep()
        tampered.CopyFrom(good)
        tampered.receipt.signature = bytes(64)
        unsigned = worker_service_pb2.FinishStep()
        unsigned.CopyFrom(good)
        unsigned.receipt.key_id = "unknown"
        swapped = worker_service_pb2.FinishStep()
        swapped.CopyFrom(worker.finished(foreign, {"rows": 3}))
        failed = worker_service_pb2.FinishStep()
        failed.CopyFrom(worker.finished(begun, None, error="boom"))
        failed.status = task_pb2.STEP_STATUS_COMPLETED
        failed.output_json = '"boom"'
        for wrong in (forged, tampered, unsigned, swapped, failed):
            error = await refused(worker.record(claimed, wrong))
            assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SIGNATURE_INVALID")
        await worker.record(claimed, good)


async def test_a_tool_s_own_failure_is_journaled_with_its_receipt_and_replayed(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        begun = await worker.begin(claimed)
        await worker.record(claimed, worker.finished(begun, None, error="no such file"))
        await worker.release(claimed)
        again = await worker.must_claim(session)
        step = (await worker.begin(again)).recorded.step
    assert step.status == task_pb2.STEP_STATUS_FAILED and step.error.message == "no such file"
    (listed,) = (await world.people().ListTaskSteps(_steps(task.task_id))).steps
    assert listed.error.error_class == "ValueError" and listed.HasField("end_time")


async def test_a_refused_call_is_journaled_without_a_receipt_and_may_be_asked_again_later(
    world: World,
) -> None:
    await world.submit()
    worker = world.worker()
    refusal = worker_service_pb2.FinishStep(
        step_key="read",
        status=task_pb2.STEP_STATUS_REFUSED,
        error=task_pb2.TaskError(error_class="POLICY_DENIED", message="no policy allows it"),
    )
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        await worker.begin(claimed)
        await worker.record(claimed, refusal)
        assert (await worker.begin(claimed)).recorded.step.status == task_pb2.STEP_STATUS_REFUSED
        await worker.release(claimed)
        again = await worker.must_claim(session)
        assert not again.finished_steps
        assert (await worker.begin(again)).HasField("start")


async def test_the_token_of_another_task_worker_or_signer_opens_nothing(world: World) -> None:
    await world.submit()
    worker, thief = world.worker(), world.worker(subject="thief")
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        error = await refused(thief.begin(claimed))
        assert (error.code, error.reason) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ATTEMPT_TOKEN_MISMATCH",
        )
        claims = permit_pb2.AttemptClaims.FromString(claimed.attempt_token.payload)
        claims.attempt = 2
        claimed.attempt_token.payload = claims.SerializeToString()
        error = await refused(worker.begin(claimed))
        assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SIGNATURE_INVALID")


async def test_a_token_acts_for_its_own_task_alone(world: World) -> None:
    first = await world.submit()
    second = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        one, two = await worker.must_claim(session), await worker.must_claim(session)
        await worker.complete(one, {"by": 1})
        await worker.complete(two, {"by": 2})
    for task, number in ((first, 1), (second, 2)):
        assert json.loads((await world.get(task.task_id)).result_json) == {"by": number}


async def test_no_step_begins_once_the_task_is_canceling(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        begun = await worker.begin(claimed, "one")
        await world.people().CancelTask(messages.CancelTaskRequest(task_id=task.task_id))
        error = await refused(worker.begin(claimed, "two"))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_STATE")
        assert error.metadata["state"] == "CANCELING"
        await worker.record(claimed, worker.finished(begun, [1]))
        assert await worker.fail(claimed) == task_pb2.TASK_STATE_CANCELED


async def test_one_bad_step_in_a_shared_batch_fails_its_caller_alone(world: World) -> None:
    for _ in range(10):
        await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claims = await asyncio.gather(*(worker.must_claim(session) for _ in range(10)))
        bad = refused(worker.begin(claims[0], tool=UNBOUND_TOOL))
        good = asyncio.gather(*(worker.begin(claimed) for claimed in claims[1:]))
        answers, error = await asyncio.gather(good, bad)
    assert all(answer.HasField("start") for answer in answers) and error.reason == "TOOL_NOT_BOUND"


async def test_bindings_of_a_version_that_the_feed_never_told_are_asked_for(still_world: World) -> None:
    still_world.peers.registry.publish("secret", announced=False, content=spec())
    async with still_world.serving() as world:
        await world.submit(agent="secret")
    async with still_world.serving() as world:
        worker = world.worker()
        async with worker.session() as session:
            claimed = await worker.must_claim(session)
            assert (await worker.begin(claimed)).HasField("start")


def _steps(task_id: str) -> messages.ListTaskStepsRequest:
    return messages.ListTaskStepsRequest(task_id=task_id, include_payloads=True)
