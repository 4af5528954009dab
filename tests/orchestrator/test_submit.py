"""SubmitTask and RetryTask: what is taken, what is refused, and what a repeat is answered with."""

import asyncio
import json
import uuid

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from svc_kit.identity import Role
from tests.orchestrator.peers import AGENT, INPUT_SCHEMA, spec
from tests.orchestrator.world import World, eventually, refused, refused_stream, request


async def count(world: World) -> int:
    """How many tasks the tenant has."""
    return len((await world.people().ListTasks(messages.ListTasksRequest(page_size=1000))).tasks)


async def test_a_submitted_task_is_durable_pinned_and_complete_when_answered(world: World) -> None:
    task = await world.submit(task_type="report", labels={"team": "data"})
    assert uuid.UUID(task.task_id).version == 7
    assert (task.agent, task.agent_version, task.task_type) == (AGENT, "1.0.0", "report")
    assert (task.state, task.wait_reason) == (
        task_pb2.TASK_STATE_SUBMITTED,
        task_pb2.WAIT_REASON_QUEUED,
    )
    assert task.submitter == "ada@example.org" and task.revision == 1 and not task.input_json
    stored = await world.get(task.task_id)
    assert json.loads(stored.input_json) == {"path": "a.csv"}
    assert stored.create_time == task.create_time


async def test_a_task_keeps_the_version_that_was_newest_when_it_was_submitted(world: World) -> None:
    first = await world.submit()
    world.peers.registry.publish(AGENT, "2.0.0")

    async def newest() -> str:
        return (await world.submit(validate_only=True)).agent_version

    async with asyncio.timeout(10):
        while await newest() != "2.0.0":  # noqa: ASYNC110 - the feed brings it in its own time
            await asyncio.sleep(0.02)
    assert (await world.get(first.task_id)).agent_version == "1.0.0"
    assert (await world.submit(agent_version="1.0.0")).agent_version == "1.0.0"


async def test_an_agent_published_a_moment_ago_is_found_although_the_feed_has_not_told_yet(
    world: World,
) -> None:
    world.peers.registry.publish("fresh", announced=False)
    assert (await world.submit(agent="fresh")).agent == "fresh"


async def test_unknown_disabled_and_wrong_agents_are_refused_and_nothing_is_stored(world: World) -> None:
    error = await refused(world.people().SubmitTask(request(agent="nobody")))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
    error = await refused(world.people().SubmitTask(request(agent_version="9.9.9")))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "AGENT_VERSION_NOT_FOUND")
    world.peers.registry.publish("switched-off")
    world.peers.registry.disable("switched-off")
    error = await world.until_refused(agent="switched-off")
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_ACTIVE")
    assert await count(world) == 0


async def test_every_violation_reaches_the_caller_over_the_wire(world: World) -> None:
    error = await refused(world.people().SubmitTask(request(agent="No", input_json='{"a": NaN}')))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert {violation.field for violation in error.violations} == {"agent", "input_json"}


async def test_an_input_that_does_not_fit_the_schema_of_the_agent_is_refused_with_every_place(
    world: World,
) -> None:
    world.peers.registry.publish("strict", content=spec(input_schema_json=json.dumps(INPUT_SCHEMA)))
    error = await refused(
        world.people().SubmitTask(request(agent="strict", input_json='{"rows": 0, "colour": "red"}'))
    )
    assert error.reason == "INVALID_FIELDS"
    said = " ".join(violation.message for violation in error.violations)
    assert "path" in said and "rows" in said and "colour" in said
    good = request(agent="strict", input_json='{"path": "a.csv", "rows": 1}')
    assert (await world.people().SubmitTask(good)).task.agent == "strict"


async def test_an_agent_whose_input_schema_does_not_compile_takes_no_task_and_says_why(world: World) -> None:
    world.peers.registry.publish("torn", content=spec(input_schema_json='{"type": "objekt"}'))
    error = await refused(world.people().SubmitTask(request(agent="torn")))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "SCHEMA_INVALID")
    assert [violation.field for violation in error.violations] == ["agent"]
    assert error.metadata["agent"] == "torn"


async def test_a_megabyte_of_input_is_refused_and_the_channel_goes_on(world: World) -> None:
    stub = world.people()
    error = await refused(stub.SubmitTask(request(input_json=json.dumps({"a": "x" * 2**20}))))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await stub.SubmitTask(request())).task.task_id


async def test_validate_only_checks_everything_and_stores_nothing(world: World) -> None:
    task = await world.submit(validate_only=True, request_id=str(uuid.uuid4()))
    assert not task.task_id and task.agent_version == "1.0.0"
    assert (await refused(world.people().SubmitTask(request(agent="nobody", validate_only=True)))).reason
    assert await count(world) == 0


async def test_a_second_submit_with_the_same_request_id_returns_the_first_task(world: World) -> None:
    key = str(uuid.uuid4())
    first = await world.submit(request_id=key)
    again = await world.submit(request_id=key, input_json='{ "path" : "a.csv" }')
    assert again.task_id == first.task_id
    assert await count(world) == 1


async def test_the_same_request_id_with_another_body_is_refused(world: World) -> None:
    key = str(uuid.uuid4())
    await world.submit(request_id=key)
    for other in ({"task_type": "x"}, {"input_json": '{"path": "b.csv"}'}, {"labels": {"a": "b"}}):
        error = await refused(world.people().SubmitTask(request(request_id=key, **other)))
        assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert await count(world) == 1


async def test_fifty_submits_at_once_with_one_request_id_make_one_task(world: World) -> None:
    key = str(uuid.uuid4())
    stub = world.people()
    answers = await asyncio.gather(*(stub.SubmitTask(request(request_id=key)) for _ in range(50)))
    assert len({answer.task.task_id for answer in answers}) == 1
    assert await count(world) == 1


async def test_a_repeat_is_answered_although_the_agent_has_been_disabled_meanwhile(world: World) -> None:
    world.peers.registry.publish("soon-gone")
    key = str(uuid.uuid4())
    first = await world.submit(agent="soon-gone", request_id=key)
    world.peers.registry.disable("soon-gone")
    await world.until_refused(agent="soon-gone")
    assert (await world.submit(agent="soon-gone", request_id=key)).task_id == first.task_id


async def test_request_ids_of_other_callers_and_tenants_are_not_shared(world: World) -> None:
    key = str(uuid.uuid4())
    world.peers.registry.publish(AGENT, tenant="acme")
    callers = [
        world.people(),
        world.people(subject="bob@example.org"),
        world.people(tenant="acme"),
    ]
    tasks = [(await caller.SubmitTask(request(request_id=key))).task.task_id for caller in callers]
    assert len(set(tasks)) == 3


async def test_200_submits_at_once_are_200_tasks_with_gapless_positions(world: World) -> None:
    stub = world.people()
    answers = await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(200)))
    assert len({answer.task.task_id for answer in answers}) == 200
    assert await count(world) == 200


async def test_one_bad_row_in_a_shared_batch_fails_its_caller_alone(world: World) -> None:
    # The key of this one is taken by another body; it shares its commit with good ones around it.
    key = str(uuid.uuid4())
    await world.submit(request_id=key)
    stub = world.people()
    calls = [stub.SubmitTask(request(task_type=f"t{n}")) for n in range(20)]
    bad = refused(stub.SubmitTask(request(request_id=key, task_type="other")))
    answers, error = await asyncio.gather(asyncio.gather(*calls), bad)
    assert {answer.task.task_type for answer in answers} == {f"t{n}" for n in range(20)}
    assert error.reason == "REQUEST_ID_REUSED"


async def test_no_new_work_is_taken_while_the_audit_log_is_too_far_behind(still_world: World) -> None:
    still_world.peers.audit.refusing = True
    async with still_world.serving(audit_backlog_limit=5) as world:
        for _ in range(4):
            await world.submit()
        error = await world.until_refused()
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_BACKLOG")
        assert error.retry_after
        still_world.peers.audit.refusing = False
        async with asyncio.timeout(30):
            while await world.people().SubmitTask(request()).code() is not grpc.StatusCode.OK:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_without_a_registry_new_tasks_are_refused_and_everything_else_works(
    still_world: World,
) -> None:
    async with still_world.serving(registry_address=f"unix:{still_world.folder}/nobody.sock") as world:
        error = await refused(world.people().SubmitTask(request()))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "REGISTRY_UNAVAILABLE")
        assert error.retry_after
        assert await count(world) == 0


async def test_a_terminal_task_can_be_retried_as_a_new_one_with_the_same_content(world: World) -> None:
    first = await world.submit(task_type="report", labels={"team": "data"})
    error = await refused(world.people().RetryTask(messages.RetryTaskRequest(task_id=first.task_id)))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_STATE")
    await world.people().CancelTask(messages.CancelTaskRequest(task_id=first.task_id))
    world.peers.registry.publish(AGENT, "2.0.0")
    key = str(uuid.uuid4())
    retry = messages.RetryTaskRequest(task_id=first.task_id, request_id=key)
    second = (await world.people().RetryTask(retry)).task
    assert second.task_id != first.task_id and second.retried_from == first.task_id
    assert (second.task_type, second.agent_version) == ("report", "1.0.0")
    assert second.labels == {"team": "data"}
    assert (await world.get(second.task_id)).input_json == '{"path":"a.csv"}'
    assert (await world.people().RetryTask(retry)).task.task_id == second.task_id


async def test_a_task_of_another_tenant_can_neither_be_read_nor_changed(world: World) -> None:
    task = await world.submit()
    stranger = world.people(Role.SUPER_ADMIN, tenant="acme")
    calls = [
        stranger.GetTask(messages.GetTaskRequest(task_id=task.task_id)),
        stranger.CancelTask(messages.CancelTaskRequest(task_id=task.task_id)),
        stranger.RetryTask(messages.RetryTaskRequest(task_id=task.task_id)),
        stranger.ListTaskSteps(messages.ListTaskStepsRequest(task_id=task.task_id)),
    ]
    for call in calls:
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")
    watch = stranger.WatchTask(messages.WatchTaskRequest(task_id=task.task_id))
    assert (await refused_stream(watch)).reason == "TASK_NOT_FOUND"
    assert (await stranger.ListTasks(messages.ListTasksRequest())).tasks == []


@pytest.mark.parametrize("task_id", ["", "nonsense", "01900000-0000-7000-8000-00000000000g"])
async def test_a_task_id_that_is_none_is_refused_by_every_method(world: World, task_id: str) -> None:
    stub = world.people()
    for call in (
        stub.GetTask(messages.GetTaskRequest(task_id=task_id)),
        stub.CancelTask(messages.CancelTaskRequest(task_id=task_id)),
        stub.RetryTask(messages.RetryTaskRequest(task_id=task_id)),
        stub.ListTaskSteps(messages.ListTaskStepsRequest(task_id=task_id)),
    ):
        error = await refused(call)
        assert [violation.field for violation in error.violations] == ["task_id"]


async def test_a_new_task_is_nudged_to_its_pool_and_nudges_do_not_pile_up(world: World) -> None:
    import redis

    client = redis.Redis.from_url(world.settings.redis_url)
    client.delete("interlock:pool.default", "interlock:pool.default.msgs")
    stub = world.people()
    await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(100)))
    await eventually(lambda: client.llen("interlock:pool.default") > 0)
    await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(100)))
    assert client.llen("interlock:pool.default") <= 8
    client.close()
