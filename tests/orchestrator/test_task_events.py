"""ListTaskEvents: page by page to the end, over what is no longer kept, and who may see it."""

import grpc
import pytest

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from svc_kit.identity import Role
from tests.orchestrator.keeping import age, compact, delivered
from tests.orchestrator.peers import OTHER_TENANT
from tests.orchestrator.test_watch import run_to_the_end
from tests.orchestrator.world import World, refused

UNKNOWN = "01900000-0000-7000-8000-000000000000"


async def page(world: World, task_id: str, size: int, token: str = "") -> messages.ListTaskEventsResponse:
    return await world.people(Role.VIEWER).ListTaskEvents(
        messages.ListTaskEventsRequest(task_id=task_id, page_size=size, page_token=token)
    )


@pytest.mark.parametrize(("size", "pages"), [(2, 5), (3, 3), (8, 2), (9, 1), (0, 1), (5000, 1)])
async def test_events_come_page_by_page_in_order_each_once_and_the_last_page_says_so(
    world: World, size: int, pages: int
) -> None:
    task_id, last = await run_to_the_end(world)
    seen, token, count = [], "", 0
    while token or not count:
        answer = await page(world, task_id, size, token)
        assert answer.compact_revision == 0 and 0 < len(answer.events) <= (size or 50)
        seen += [event.revision for event in answer.events]
        token, count = answer.next_page_token, count + 1
    assert (seen, count) == (list(range(1, last + 1)), pages)


async def test_what_happens_between_two_pages_is_on_the_second(world: World) -> None:
    task = await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        first = await page(world, task.task_id, 1)
        await worker.complete(claimed)
    second = await page(world, task.task_id, 5, first.next_page_token)
    assert [event.revision for event in (*first.events, *second.events)] == [1, 2, 3]
    assert not second.next_page_token


async def test_what_is_no_longer_kept_is_told_on_the_first_page_and_refused_to_a_later_one(
    world: World,
) -> None:
    task_id, last = await run_to_the_end(world)
    first = await page(world, task_id, 2)
    whole = await page(world, task_id, last - 1)
    await delivered(world)
    await age(world, 2)
    await compact(world)
    again = await page(world, task_id, 2)
    assert (list(again.events), again.compact_revision, again.next_page_token) == ([], last, "")
    for token in (first.next_page_token, whole.next_page_token):
        asked = messages.ListTaskEventsRequest(task_id=task_id, page_size=2, page_token=token)
        error = await refused(world.people(Role.VIEWER).ListTaskEvents(asked))
        assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_COMPACTED")
        assert error.metadata["compact_revision"] == str(last)


async def test_a_page_token_of_another_task_or_tenant_or_damaged_is_refused(world: World) -> None:
    task_id, _ = await run_to_the_end(world)
    other = await world.submit()
    token = (await page(world, task_id, 2)).next_page_token
    people, strangers = world.people(), world.people(tenant=OTHER_TENANT)
    wrong = [
        (people, messages.ListTaskEventsRequest(task_id=other.task_id, page_token=token)),
        (strangers, messages.ListTaskEventsRequest(task_id=task_id, page_token=token)),
        (people, messages.ListTaskEventsRequest(task_id=task_id, page_token=token[:-3])),
        (people, messages.ListTaskEventsRequest(task_id=task_id, page_token="!!")),
    ]
    for stub, asked in wrong:
        error = await refused(stub.ListTaskEvents(asked))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_a_task_that_is_unknown_or_another_tenants_has_no_events_to_show(world: World) -> None:
    task = await world.submit()
    for stub, task_id in (
        (world.people(), UNKNOWN),
        (world.people(tenant=OTHER_TENANT), task.task_id),
    ):
        error = await refused(stub.ListTaskEvents(messages.ListTaskEventsRequest(task_id=task_id)))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND")


async def test_a_bad_task_id_or_page_size_is_named(world: World) -> None:
    for field, asked in (
        ("task_id", messages.ListTaskEventsRequest(task_id="7")),
        ("page_size", messages.ListTaskEventsRequest(task_id=UNKNOWN, page_size=-1)),
    ):
        error = await refused(world.people().ListTaskEvents(asked))
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
        assert [violation.field for violation in error.violations] == [field]
