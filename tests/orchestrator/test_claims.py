"""ClaimTask: a task goes to one worker, in order, and the same claim is answered the same."""

import asyncio
import uuid

import grpc

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from svc_kit.identity import SYSTEM_TENANT
from tests.orchestrator.world import World, refused, request


async def test_tasks_are_claimed_in_the_order_in_which_they_were_submitted(world: World) -> None:
    submitted = [(await world.submit()).task_id for _ in range(5)]
    worker = world.worker()
    async with worker.session() as session:
        claimed = [await worker.must_claim(session) for _ in range(5)]
        assert [each.task_id for each in claimed] == submitted
        assert await worker.claim(session) is None


async def test_two_sessions_that_claim_at_the_same_time_never_share_a_task(world: World) -> None:
    stub = world.people()
    await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(120)))
    workers = [world.worker(subject=f"worker-{n}") for n in range(2)]
    async with workers[0].session(slot="a") as first, workers[1].session(slot="b") as second:
        claims = await asyncio.gather(
            *(workers[0].claim(first) for _ in range(70)), *(workers[1].claim(second) for _ in range(70))
        )
    found = [claimed.task_id for claimed in claims if claimed is not None]
    assert len(found) == len(set(found)) == 120
    assert all(claimed.attempt == 1 for claimed in claims if claimed is not None)


async def test_two_orchestrators_on_one_database_never_hand_out_a_task_twice(world: World) -> None:
    stub = world.people()
    await asyncio.gather(*(stub.SubmitTask(request()) for _ in range(120)))
    first = world.worker(subject="worker-0")
    async with world.serving(internal_address=f"unix:{world.folder}/in2.sock"):
        second = world.worker(subject="worker-1")
        async with first.session(slot="a") as here, second.session(slot="b") as there:
            claims = await asyncio.gather(
                *(first.claim(here) for _ in range(70)), *(second.claim(there) for _ in range(70))
            )
            found = [claimed.task_id for claimed in claims if claimed is not None]
            assert len(found) == len(set(found)) == 120
            # Both wrote events at the same time; each position was given once, and none was left out.
            events = await world.positions()
            assert events == list(range(1, 241))


async def test_the_same_claim_id_is_answered_with_the_same_task_and_attempt(world: World) -> None:
    await world.submit()
    await world.submit()
    worker = world.worker()
    claim_id = str(uuid.uuid4())
    async with worker.session() as session:
        answers = await asyncio.gather(*(worker.claim(session, claim_id=claim_id) for _ in range(5)))
        answers.append(await worker.claim(session, claim_id=claim_id))
        assert len({(each.task_id, each.attempt) for each in answers if each is not None}) == 1
        assert all(each is not None for each in answers)
        other = await worker.must_claim(session)
        assert answers[0] is not None and other.task_id != answers[0].task_id


async def test_a_claim_id_that_another_session_has_used_is_a_claim_of_its_own(world: World) -> None:
    tasks = [await world.submit() for _ in range(4)]
    worker = world.worker()
    shared = [str(uuid.uuid4()) for _ in range(2)]
    async with worker.session() as one, worker.session(slot="host/worker-1") as other:
        sessions = (one, other)
        first = [await worker.claim(each, claim_id=shared[0]) for each in sessions]
        # Within one batch, new and repeated.
        again = await asyncio.gather(
            *(worker.claim(each, claim_id=claim_id) for each in sessions for claim_id in shared)
        )
        before, after = ([each.task_id for each in claimed if each] for claimed in (first, again))
        assert [after[0], after[2]] == before
        assert sorted(after) == sorted(task.task_id for task in tasks)


async def test_a_claim_under_an_unknown_or_foreign_session_is_refused(world: World) -> None:
    task = await world.submit()
    worker, thief = world.worker(), world.worker(subject="thief")
    async with worker.session() as session:
        for stub, session_id in ((worker.stub, str(uuid.uuid4())), (thief.stub, session.session_id)):
            error = await refused(
                stub.ClaimTask(
                    worker_service_pb2.ClaimTaskRequest(
                        session_id=session_id, pool="default", claim_id=str(uuid.uuid4())
                    )
                )
            )
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
    assert (await world.get(task.task_id)).state == task_pb2.TASK_STATE_SUBMITTED


async def test_a_worker_cannot_claim_from_a_pool_that_its_session_or_token_does_not_name(
    world: World,
) -> None:
    worker = world.worker(pools=[("default", "default"), ("default", "other")])
    async with worker.session(pools=("default",)) as session:
        for pool in ("other", "third"):
            error = await refused(
                worker.stub.ClaimTask(
                    worker_service_pb2.ClaimTaskRequest(
                        session_id=session.session_id, pool=pool, claim_id=str(uuid.uuid4())
                    )
                )
            )
            assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "POOL_FORBIDDEN")


async def test_one_bad_claim_in_a_shared_batch_fails_its_caller_alone(world: World) -> None:
    for _ in range(3):
        await world.submit()
    worker = world.worker()
    async with worker.session() as session:
        bad = refused(
            worker.stub.ClaimTask(
                worker_service_pb2.ClaimTaskRequest(
                    session_id=str(uuid.uuid4()), pool="default", claim_id=str(uuid.uuid4())
                )
            )
        )
        good = asyncio.gather(*(worker.claim(session) for _ in range(3)))
        claimed, error = await asyncio.gather(good, bad)
        assert all(each is not None for each in claimed) and error.reason == "SESSION_NOT_FOUND"


async def test_the_claim_brings_the_trace_of_the_submit_call_and_the_limits_of_the_agent(
    world: World,
) -> None:
    opened = world.people()
    trace = "0af7651916cd43dd8448eb211c80319c"
    await opened.SubmitTask(request(), metadata=(("traceparent", f"00-{trace}-b7ad6b7169203331-01"),))
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
    assert claimed.traceparent.split("-")[1] == trace
    assert claimed.start_to_close_timeout.ToSeconds() == 600
    assert claimed.tenant == "default" != SYSTEM_TENANT
    assert claimed.agent_digest == world.peers.registry.versions["default", claimed.agent, "1.0.0"].digest
    shown = await world.people().GetTask(messages.GetTaskRequest(task_id=claimed.task_id))
    assert [attempt.worker for attempt in shown.task.attempts] == ["worker-1 host/worker-0#1"]
