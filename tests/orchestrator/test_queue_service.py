"""QueueService: queues made, changed, emptied and deleted; workers listed and drained."""

import asyncio
import uuid
from typing import Any

import grpc

from interlock.audit.v1 import entry_pb2
from interlock.orchestrator.v1 import queue_service_pb2 as messages
from interlock.orchestrator.v1 import queue_service_pb2_grpc, task_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as worker_messages
from orchestrator_svc import queue_servicer
from svc_kit.identity import Role, implied
from tests.orchestrator.test_queue_claims import make_queue, operators
from tests.orchestrator.world import World, eventually, refused, request

_EMPTY = {method: getattr(messages, f"{method}Request")() for method in queue_servicer.ROLES}


async def test_every_method_takes_exactly_the_roles_that_it_names(world: World) -> None:
    for role in Role:
        tenant = "system" if role is Role.SERVICE else "default"
        opened = world.channel(world.addresses.public, [role], tenant, "someone")
        stub = queue_service_pb2_grpc.QueueServiceStub(opened)
        for method, empty in _EMPTY.items():
            allowed = not implied({role}).isdisjoint(queue_servicer.ROLES[method])
            code = await getattr(stub, method)(empty).code()
            assert (code is not grpc.StatusCode.PERMISSION_DENIED) == allowed, (role, method, code)


async def test_a_queue_is_made_read_listed_changed_and_deleted_and_each_change_is_audited(
    world: World,
) -> None:
    stub = operators(world)
    made = await make_queue(world, "nightly", pool="batch", max_running=3, description="at night")
    assert (made.pool, made.max_running, made.max_running_per_key) == ("batch", 3, 1)
    taken = messages.CreateQueueRequest(queue=messages.Queue(name="nightly"))
    assert (await refused(stub.CreateQueue(taken))).reason == "NAME_TAKEN"
    listed = await stub.ListQueues(messages.ListQueuesRequest(page_size=1))
    assert [queue.name for queue in listed.queues] == ["default"]
    rest = await stub.ListQueues(messages.ListQueuesRequest(page_token=listed.next_page_token))
    assert [queue.name for queue in rest.queues] == ["nightly"] and not rest.next_page_token

    change = messages.UpdateQueueRequest(
        queue=messages.Queue(name="nightly", max_running=5, max_waiting=9, etag=made.etag)
    )
    change.update_mask.paths.append("max_running")
    changed = (await stub.UpdateQueue(change)).queue
    assert (changed.max_running, changed.max_waiting, changed.description) == (5, 0, "at night")
    error = await refused(stub.UpdateQueue(change))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")

    await stub.DeleteQueue(messages.DeleteQueueRequest(name="nightly"))
    gone = await refused(stub.GetQueue(messages.GetQueueRequest(name="nightly")))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND")

    def told() -> list[entry_pb2.Event]:
        events = world.peers.audit.events.values()
        return [event for event in events if event.attributes.get("queue") == "nightly"]

    await eventually(lambda: len(told()) == 3)
    assert [event.reason for event in told()] == ["CREATE_QUEUE", "UPDATE_QUEUE", "DELETE_QUEUE"]
    assert {event.actor for event in told()} == {"op@example.org"}
    assert told()[1].attributes["max_running"] == "5"


async def test_everything_wrong_with_a_queue_is_said_at_once(world: World) -> None:
    stub = operators(world)
    bad = messages.Queue(name="Bad Name", pool="-", max_running=-1, max_waiting=100_001, paused=True)
    bad.rate_limit.count = 0
    error = await refused(stub.CreateQueue(messages.CreateQueueRequest(queue=bad)))
    assert {violation.field for violation in error.violations} == {
        "queue.name",
        "queue.pool",
        "queue.paused",
        "queue.max_running",
        "queue.max_waiting",
        "queue.rate_limit.count",
        "queue.rate_limit.period",
    }
    change = messages.UpdateQueueRequest(queue=messages.Queue(name="default"))
    change.update_mask.paths.extend(["pool", "colour"])
    error = await refused(stub.UpdateQueue(change))
    assert [violation.field for violation in error.violations] == ["update_mask", "update_mask"]


async def test_a_queue_is_deleted_only_once_its_tasks_have_ended_and_default_stays(world: World) -> None:
    stub = operators(world)
    await make_queue(world, "short")
    task = await world.submit(queue="short")
    delete = messages.DeleteQueueRequest(name="short")
    error = await refused(stub.DeleteQueue(delete))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUEUE_NOT_EMPTY")
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert (await refused(stub.DeleteQueue(delete))).reason == "QUEUE_NOT_EMPTY"
        await worker.complete(claimed)
    await stub.DeleteQueue(delete)
    assert (await world.get(task.task_id)).queue == "short"
    error = await refused(stub.DeleteQueue(messages.DeleteQueueRequest(name="default")))
    assert error.reason == "INVALID_FIELDS"


async def test_a_task_is_never_stored_into_a_queue_that_is_deleted_at_the_same_time(world: World) -> None:
    stub = operators(world)

    async def submit(name: str) -> bool:
        try:
            await world.submit(queue=name)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def delete(name: str) -> bool:
        try:
            await stub.DeleteQueue(messages.DeleteQueueRequest(name=name))
        except grpc.aio.AioRpcError:
            return False
        return True

    for turn in range(10):
        await make_queue(world, f"q{turn}")
        stored, deleted = await asyncio.gather(submit(f"q{turn}"), delete(f"q{turn}"))
        assert stored != deleted


async def test_a_purge_cancels_what_waits_and_leaves_what_runs(world: World) -> None:
    stub, worker = operators(world), world.worker()
    await asyncio.gather(*(world.people().SubmitTask(request()) for _ in range(30)))
    async with worker.session() as session:
        running = await worker.must_claim(session)
        answer = await stub.PurgeQueue(messages.PurgeQueueRequest(name="default"))
        assert (answer.purged, answer.more) == (29, False)
        assert await worker.claim(session) is None
        assert (await world.get(running.task_id)).state == task_pb2.TASK_STATE_RUNNING
        assert (await stub.PurgeQueue(messages.PurgeQueueRequest(name="default"))).purged == 0


async def test_statistics_count_what_waits_runs_and_ended_and_whoever_works(world: World) -> None:
    stub, worker = operators(world), world.worker()
    for priority, key in ((5, ""), (5, "k"), (9, ""), (1, "j")):
        await world.submit(priority=priority, fairness_key=key)
    async with worker.session() as session:
        await worker.complete(await worker.must_claim(session))
        await worker.must_claim(session)
        stats = (await stub.GetQueue(messages.GetQueueRequest(name="default"))).queue.stats
    assert (stats.waiting, stats.running, stats.ended_last_minute, stats.workers) == (2, 1, 1, 1)
    assert not stats.waiting_is_minimum
    assert 0 < stats.oldest_wait.ToNanoseconds() < 60e9


async def test_a_drained_worker_gets_nothing_more_ends_what_it_has_and_may_be_resumed(world: World) -> None:
    stub, worker = operators(world), world.worker()
    tasks = [await world.submit(), await world.submit()]
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        (listed,) = (await stub.ListWorkers(messages.ListWorkersRequest())).workers
        assert (listed.name, listed.running) == ("worker-1 host/worker-0#1", 1)
        assert list(listed.pools) == ["default"]
        assert listed.state == messages.WORKER_STATE_ACTIVE
        drain = messages.DrainWorkerRequest(session_id=listed.session_id)
        assert (await stub.DrainWorker(drain)).worker.state == messages.WORKER_STATE_DRAINING
        claim = worker_messages.ClaimTaskRequest(
            session_id=session.session_id, pool="default", claim_id=str(uuid.uuid4())
        )
        assert await worker.stub.ClaimTask(claim) == worker_messages.ClaimTaskResponse(draining=True)
        await worker.complete(claimed)
        assert (await stub.DrainWorker(drain)).worker.state == messages.WORKER_STATE_DRAINED
        resumed = await stub.ResumeWorker(messages.ResumeWorkerRequest(session_id=listed.session_id))
        assert resumed.worker.state == messages.WORKER_STATE_ACTIVE
        assert (await worker.must_claim(session)).task_id == tasks[1].task_id


async def test_a_worker_stays_drained_under_its_next_session_until_its_process_is_new(world: World) -> None:
    stub, worker = operators(world), world.worker()
    await world.submit()
    async with worker.session() as first:
        await stub.DrainWorker(messages.DrainWorkerRequest(session_id=first.session_id))
    async with worker.session() as same_process:
        assert await worker.claim(same_process) is None
    async with worker.session(incarnation=2) as new_process:
        await worker.must_claim(new_process)


async def test_only_who_may_act_for_every_tenant_of_a_worker_drains_it(world: World) -> None:
    both = world.worker(pools=[("default", "default"), ("acme", "default")])
    foreign = world.worker(subject="foreign", pools=[("acme", "default")])
    async with both.session() as shared, foreign.session(slot="f") as other:
        stub = operators(world)
        listed = (await stub.ListWorkers(messages.ListWorkersRequest())).workers
        assert [each.session_id for each in listed] == [shared.session_id]
        for session_id, reason in (
            (shared.session_id, "TENANT_FORBIDDEN"),
            (other.session_id, "WORKER_NOT_FOUND"),
            (str(uuid.uuid4()), "WORKER_NOT_FOUND"),
        ):
            drain = messages.DrainWorkerRequest(session_id=session_id)
            assert (await refused(stub.DrainWorker(drain))).reason == reason
        root = world.channel(world.addresses.public, [Role.SUPER_ADMIN], "system", "root")
        everyone: Any = queue_service_pb2_grpc.QueueServiceStub(root)
        drain = messages.DrainWorkerRequest(session_id=shared.session_id)
        drained = await everyone.DrainWorker(drain, metadata=(("x-interlock-tenant", "default"),))
        assert drained.worker.state == messages.WORKER_STATE_DRAINED


async def test_queues_of_another_tenant_are_not_seen(world: World) -> None:
    await make_queue(world, "mine")
    opened = world.channel(world.addresses.public, [Role.ADMIN], "acme", "op@acme.org")
    stub = queue_service_pb2_grpc.QueueServiceStub(opened)
    listed = (await stub.ListQueues(messages.ListQueuesRequest())).queues
    assert [queue.name for queue in listed] == ["default"]
    error = await refused(stub.PauseQueue(messages.PauseQueueRequest(name="mine")))
    assert error.reason == "QUEUE_NOT_FOUND"
