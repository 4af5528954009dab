"""GetTask, ListTasks, CountTasks, ListTaskSteps: filters, pages, indexes and who may see what."""

import asyncio
import json

import grpc
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from orchestrator_svc import filtering
from orchestrator_svc.store.tasks import page_query
from svc_kit.database import Database
from svc_kit.identity import Role
from tests.orchestrator.peers import OTHER_TENANT, TENANT
from tests.orchestrator.world import World, refused, request

_DIALECT = PGDialect()  # type: ignore[no-untyped-call]


async def listed(world: World, text: str = "", size: int = 0) -> list[str]:
    """Task types of every page, in order."""
    found: list[str] = []
    token = ""
    while True:
        page = await world.people().ListTasks(
            messages.ListTasksRequest(filter=text, page_size=size, page_token=token)
        )
        found += [task.task_type for task in page.tasks]
        token = page.next_page_token
        if not token:
            return found


async def test_tasks_are_listed_newest_first_page_by_page_without_payloads(world: World) -> None:
    for n in range(7):
        await world.submit(task_type=f"t{n}")
    assert await listed(world, size=3) == [f"t{n}" for n in range(6, -1, -1)]
    page = await world.people().ListTasks(messages.ListTasksRequest())
    assert not any(task.input_json or task.HasField("input") for task in page.tasks)


async def test_tasks_are_filtered_by_agent_state_type_and_time(world: World) -> None:
    world.peers.registry.publish("other-agent")
    first = await world.submit(task_type="a")
    await world.submit(agent="other-agent", task_type="b")
    await world.people().CancelTask(messages.CancelTaskRequest(task_id=first.task_id))
    assert await listed(world, 'agent = "other-agent"') == ["b"]
    assert await listed(world, 'state = "CANCELED"') == ["a"]
    assert await listed(world, 'agent = "csv-analyst" AND state = "SUBMITTED"') == []
    assert await listed(world, "task_type != a") == ["b"]
    since = first.create_time.ToJsonString()
    assert await listed(world, f'create_time > "{since}"') == ["b"]
    assert await listed(world, f'create_time <= "{since}"') == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        'colour = "red"',
        'state = "PURPLE"',
        "state =",
        'agent = "a" OR agent = "b"',
        'agent = "\\u0000"',
        'create_time > "yesterday"',
        "'; DROP TABLE task; --",
    ],
)
async def test_a_filter_that_is_not_understood_is_refused_and_names_the_fields(
    world: World, text: str
) -> None:
    error = await refused(world.people().ListTasks(messages.ListTasksRequest(filter=text)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
    assert error.metadata["allowed"] == (
        "agent, create_time, dead_lettered, parent_task_id, queue, root_task_id, state, task_type"
    )


async def test_a_page_token_of_another_filter_or_tenant_or_damaged_is_refused(world: World) -> None:
    for _ in range(3):
        await world.submit()
    page = await world.people().ListTasks(messages.ListTasksRequest(page_size=1))
    wrong = [
        (world.people(), messages.ListTasksRequest(page_token=page.next_page_token, filter="agent = a")),
        (world.people(tenant="acme"), messages.ListTasksRequest(page_token=page.next_page_token)),
        (world.people(), messages.ListTasksRequest(page_token=page.next_page_token[:-3])),
        (world.people(), messages.ListTasksRequest(page_token="!!")),
    ]
    for stub, asked in wrong:
        error = await refused(stub.ListTasks(asked))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_a_negative_page_size_is_refused(world: World) -> None:
    error = await refused(world.people().ListTasks(messages.ListTasksRequest(page_size=-1)))
    assert [violation.field for violation in error.violations] == ["page_size"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("", "task_newest"),
        ('state = "FAILED"', "task_by_state"),
        ('agent = "csv-analyst" AND state = "FAILED"', "task_by_agent"),
    ],
)
async def test_r43_1_lists_by_agent_and_state_and_by_state_and_time_use_an_index(
    world: World, text: str, index: str
) -> None:
    stub = world.people()
    await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(300)))
    query = page_query("default", filtering.conditions(text), after=None, limit=51)
    compiled = query.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True})
    database = Database(world.database.owner_url)
    async with database.transaction() as connection:
        await connection.execute(sa.text("ANALYZE task"))
        # So few rows fit a page or two; what counts is that the index serves both condition and order.
        await connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
        await connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
        rows = (await connection.exec_driver_sql(f"EXPLAIN {compiled}".replace("%", "%%"))).all()
    await database.close()
    plan = "\n".join(row[0] for row in rows)
    assert index in plan and "Sort" not in plan


async def test_steps_are_listed_in_order_and_payloads_only_to_those_with_the_right(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        for n in range(3):
            begun = await worker.begin(claimed, f"step-{n}", {"path": f"{n}.csv"})
            await worker.record(claimed, worker.finished(begun, {"n": n}))
    asked = messages.ListTaskStepsRequest(task_id=task.task_id, page_size=2)
    first = await world.people(Role.VIEWER).ListTaskSteps(asked)
    assert [step.step_key for step in first.steps] == ["step-0", "step-1"]
    assert not any(step.input_json or step.output_json for step in first.steps)
    asked.page_token = first.next_page_token
    second = await world.people(Role.VIEWER).ListTaskSteps(asked)
    assert [(step.step_key, step.ordinal) for step in second.steps] == [("step-2", 3)]
    assert not second.next_page_token

    asked = messages.ListTaskStepsRequest(task_id=task.task_id, include_payloads=True)
    error = await refused(world.people(Role.VIEWER).ListTaskSteps(asked))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    for role in (Role.DEVELOPER, Role.SUBMITTER, Role.AUDITOR):
        steps = (await world.people(role).ListTaskSteps(asked)).steps
        assert [json.loads(step.output_json) for step in steps] == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_integers_that_a_struct_would_round_come_back_as_text_alone(world: World) -> None:
    exact = await world.submit(input_json='{"id": 9007199254740993}')
    stored = await world.get(exact.task_id)
    assert stored.input_json == '{"id":9007199254740993}' and not stored.HasField("input")


async def test_an_input_too_deep_for_a_struct_comes_back_as_text_alone(world: World) -> None:
    for depth, fits in ((27, True), (28, False), (64, False)):
        text = '{"a":' * depth + "1" + "}" * depth
        nested = await world.submit(input_json=text)
        stored = await world.get(nested.task_id)
        assert stored.input_json == text and stored.HasField("input") == fits


async def test_a_page_never_outgrows_a_message(world: World) -> None:
    labels = {f"label-{n}": "v" * 255 for n in range(32)}
    stub = world.people()
    await asyncio.gather(*(stub.SubmitTask(request(labels=labels)) for _ in range(600)))
    first = await world.people().ListTasks(messages.ListTasksRequest(page_size=1000))
    assert 1 < len(first.tasks) < 600 and first.ByteSize() < 4 * 2**20
    rest = await world.people().ListTasks(
        messages.ListTasksRequest(page_size=1000, page_token=first.next_page_token)
    )
    seen = [task.task_id for task in (*first.tasks, *rest.tasks)]
    assert len(seen) == len(set(seen)) and seen == sorted(seen, reverse=True)


async def counted(world: World, text: str = "", limit: int = 0, tenant: str = TENANT) -> tuple[int, bool]:
    """How many there are, and whether there are more than that."""
    asked = messages.CountTasksRequest(filter=text, limit=limit)
    answer = await world.people(Role.VIEWER, tenant=tenant).CountTasks(asked)
    return answer.count, answer.more


async def test_tasks_are_counted_by_a_filter_up_to_a_bound_and_by_tenant(world: World) -> None:
    assert await counted(world) == (0, False)
    tasks = [await world.submit(task_type="odd" if n % 2 else "even") for n in range(5)]
    await world.people().CancelTask(messages.CancelTaskRequest(task_id=tasks[0].task_id))
    assert await counted(world) == (5, False)
    assert await counted(world, "task_type = even") == (3, False)
    assert await counted(world, "task_type = even AND state = SUBMITTED") == (2, False)
    assert await counted(world, "task_type = none") == (0, False)
    assert await counted(world, limit=4) == (4, True)
    assert await counted(world, limit=5) == (5, False)
    assert await counted(world, limit=100_000) == (5, False)
    assert await counted(world, tenant=OTHER_TENANT) == (0, False)


async def test_a_count_by_a_bad_filter_or_bound_is_refused_and_names_the_field(world: World) -> None:
    people = world.people()
    error = await refused(people.CountTasks(messages.CountTasksRequest(filter="colour = red")))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FILTER_INVALID")
    assert "task_type" in error.metadata["allowed"]
    for limit in (-1, 100_001):
        error = await refused(people.CountTasks(messages.CountTasksRequest(limit=limit)))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert [violation.field for violation in error.violations] == ["limit"]
