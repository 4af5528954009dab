"""When silent sessions are taken for dead."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import grpc
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from interlock.orchestrator.v1 import queue_service_pb2 as queue_messages
from interlock.orchestrator.v1 import task_pb2
from orchestrator_svc.lapses import LapseGuard, Lapses
from svc_kit.identity import Role
from tests.command_line import document, interlock
from tests.orchestrator.peers import TENANT
from tests.orchestrator.test_explain import explain, kinds
from tests.orchestrator.test_queue_claims import operators
from tests.orchestrator.world import World, eventually, refused

LEASE = 10.0


def guard() -> LapseGuard:
    return LapseGuard(share=0.2, lease=LEASE)


def seen(opened: int, lapsed: int) -> Lapses:
    return Lapses(open=opened, lapsed=lapsed)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20))
def test_of_fewer_than_five_sessions_any_number_may_end(history: list[tuple[int, int]]) -> None:
    judge = guard()
    for now, (opened, lapsed) in enumerate(history):
        assert judge.may_end(seen(opened, min(opened, lapsed)), now)


def test_one_of_five_may_end_and_two_of_five_may_not() -> None:
    assert guard().may_end(seen(5, 1), 0)
    assert not guard().may_end(seen(5, 2), 0)


def test_when_the_others_are_heard_for_a_lease_the_silent_ones_are_dead() -> None:
    judge = guard()
    assert [judge.may_end(seen(10, 4), now) for now in (0, 5, 9.9, 10)] == [False, False, False, True]
    assert not judge.alarmed


def test_the_lease_counts_anew_with_each_further_session_that_falls_silent() -> None:
    judge = guard()
    for now, lapsed in ((0, 4), (5, 5), (14, 5)):
        assert not judge.may_end(seen(10, lapsed), now)
    assert judge.may_end(seen(10, 5), 15)


def test_while_nobody_at_all_is_heard_nobody_is_dead() -> None:
    judge = guard()
    assert not any(judge.may_end(seen(6, 6), now) for now in range(0, 1000, 7))
    assert not judge.may_end(seen(7, 6), 1000)
    assert judge.may_end(seen(7, 6), 1010)


def test_when_all_are_heard_again_the_alarm_is_over() -> None:
    judge = guard()
    assert not judge.may_end(seen(10, 9), 0)
    assert judge.may_end(seen(10, 0), 1)
    assert judge.may_end(seen(10, 1), 2)


@given(st.lists(st.tuples(st.integers(5, 50), st.integers(0, 50), st.floats(0.1, 5)), max_size=60))
def test_more_than_a_fifth_never_ends_in_the_moment_in_which_it_lapses(
    history: list[tuple[int, int, float]],
) -> None:
    judge, now, before = guard(), 0.0, 0
    for opened, some, passes in history:
        lapsed = min(opened, some)
        if judge.may_end(seen(opened, lapsed), now):
            assert lapsed <= 0.2 * opened or lapsed <= before
        now, before = now + passes, lapsed


def stopped() -> bool:
    return REGISTRY.get_sample_value("interlock_reaper_stopped") == 1


async def test_when_two_of_five_workers_fall_silent_their_tasks_run_again_only_after_the_alarm(
    world: World,
) -> None:
    tasks = [await world.submit() for _ in range(2)]
    worker = world.worker()
    async with AsyncExitStack() as well, AsyncExitStack() as silent:
        for slot in ("a", "b", "c"):
            await well.enter_async_context(worker.session(slot=slot))
        for slot in ("d", "e"):
            await worker.must_claim(await silent.enter_async_context(worker.session(slot=slot)))
        await silent.aclose()
        # In one moment, so that the reaper sees both at one look.
        await world.rows(
            "UPDATE worker_session SET lease_until = clock_timestamp()"
            " WHERE slot IN ('d', 'e') RETURNING slot"
        )
        await eventually(stopped)
        assert {(await world.get(task.task_id)).attempt for task in tasks} == {1}
        for task in tasks:
            stored = await world.until(task.task_id, task_pb2.TASK_STATE_SUBMITTED)
            assert stored.attempts[0].outcome == "LOST"
        await eventually(lambda: not stopped())


async def test_an_operator_who_knows_better_ends_silent_workers_during_the_alarm_and_no_others(
    still_world: World,
) -> None:
    # Long enough for all of this to happen while the alarm lasts.
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(still_world.serving(lease_seconds=4.0))
        well, silent = await stack.enter_async_context(AsyncExitStack()), AsyncExitStack()
        await stack.enter_async_context(silent)
        task = await world.submit()
        stub, worker = operators(world), world.worker()
        heard = await well.enter_async_context(worker.session(slot="a"))
        for slot in ("b", "c"):
            await well.enter_async_context(worker.session(slot=slot))
        gone = [await silent.enter_async_context(worker.session(slot=slot)) for slot in ("d", "e")]
        await worker.must_claim(gone[0])
        await silent.aclose()
        await world.rows(
            "UPDATE worker_session SET lease_until = clock_timestamp()"
            " WHERE slot IN ('d', 'e') RETURNING slot"
        )
        await eventually(stopped)
        listed = (await stub.ListWorkers(queue_messages.ListWorkersRequest())).workers
        states = Counter(each.state for each in listed)
        assert states == {queue_messages.WORKER_STATE_SILENT: 2, queue_messages.WORKER_STATE_ACTIVE: 3}
        explained = await explain(world, task.task_id)
        assert kinds(explained) == ["WORKER_SILENT"]
        assert gone[0].session_id in explained.blockers[0].message

        def end(session_id: str) -> Any:
            return stub.EndWorker(queue_messages.EndWorkerRequest(session_id=session_id))

        alive = await refused(end(heard.session_id))
        assert (alive.code, alive.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKER_ALIVE")
        assert (await end(gone[0].session_id)).tasks == 1
        assert (await refused(end(gone[0].session_id))).reason == "WORKER_NOT_FOUND"
        again = await worker.must_claim(heard)
        assert (again.task_id, again.attempt) == (task.task_id, 2)
        # One person's word about a worker is in the audit log; the death burns no try of the task.
        stored = await world.get(task.task_id)
        assert (stored.attempts[0].outcome, stored.failures) == ("LOST", 0)

        def told() -> list[str]:
            events = world.peers.audit.events.values()
            return [event.actor for event in events if event.reason == "END_WORKER"]

        await eventually(lambda: told() == ["op@example.org"])
        settings = {
            "INTERLOCK_TOKEN": world.issuer.mint("op", TENANT, [Role.ADMIN], 600),
            "INTERLOCK_ORCHESTRATOR_ADDRESS": world.addresses.public,
        }
        ran = await asyncio.to_thread(interlock, "workers", "end", "--silent", "-o", "json", **settings)
        assert document(ran) == [{"session_id": gone[1].session_id, "tasks": 0}]
        await eventually(lambda: not stopped())
