"""The database away, the audit log away, the process killed."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from svc_kit.server import Addresses
from tests.orchestrator.world import World, refused, request
from tests.suite_fixtures import PostgresServer

PROCESS_LEASE = 3.0


async def answered(call: Callable[[], Any], seconds: float = 30) -> Any:
    """The answer of the first call that the service is there for."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
            await asyncio.sleep(0.1)


async def test_while_postgres_is_away_callers_are_told_when_to_come_back_and_then_all_goes_on(
    world: World, postgres_server: PostgresServer
) -> None:
    task = await world.submit()
    stub = world.people()
    watch = stub.WatchTask(messages.WatchTaskRequest(task_id=task.task_id, after_revision=1))
    states = asyncio.create_task(_states(watch))
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        postgres_server.stop()
        try:
            for call in (
                stub.SubmitTask(request()),
                stub.GetTask(messages.GetTaskRequest(task_id=task.task_id)),
                worker.begin(claimed),
            ):
                error = await refused(call)
                assert (error.code, error.reason) == (
                    grpc.StatusCode.UNAVAILABLE,
                    "DATABASE_UNAVAILABLE",
                )
                assert error.retry_after
        finally:
            # In this thread: the server dies with the thread that started it.
            postgres_server.start()
    async with worker.session(session_id=session.session_id) as again:
        again.attempts = session.attempts
        begun = await answered(lambda: worker.begin(claimed))
        await answered(lambda: worker.complete(claimed, finish=worker.finished(begun, [1])))
        later = await answered(lambda: stub.SubmitTask(request()))
        assert (await worker.must_claim(again)).task_id == later.task.task_id
    assert (await world.get(task.task_id)).attempt == 1
    assert await states == [task_pb2.TASK_STATE_RUNNING] * 3 + [task_pb2.TASK_STATE_COMPLETED]
    await world.peers.audit.of_task(task.task_id, 5)


async def test_what_the_audit_log_did_not_take_arrives_later_in_order_and_once(world: World) -> None:
    world.peers.audit.refusing = True
    tasks = [await world.submit() for _ in range(5)]
    world.peers.audit.refusing = False
    for task in tasks:
        await world.peers.audit.of_task(task.task_id, 2)
    numbers = [event.producer_sequence for event in world.peers.audit.events.values()]
    assert numbers == list(range(1, 11))


class Process:
    """`python -m orchestrator_svc`, as the suite starts it."""

    def __init__(self, world: World) -> None:
        settings = world.settings
        self._environment = {
            # A process takes its time to start, on a busy machine more than the lease of the other tests.
            "INTERLOCK_ORCHESTRATOR_LEASE_SECONDS": str(PROCESS_LEASE),
            "PATH": os.environ["PATH"],
            **{
                f"INTERLOCK_ORCHESTRATOR_{name.upper()}": str(getattr(settings, name))
                for name in (
                    "internal_address",
                    "database_url",
                    "redis_url",
                    "issuers",
                    "token_file",
                    "keys_dir",
                    "registry_address",
                    "gateway_address",
                    "audit_address",
                )
            },
            "INTERLOCK_ORCHESTRATOR_PUBLIC_ADDRESS": f"unix:{world.folder}/public.sock",
        }
        self._world = world
        self._log = world.folder / "orchestrator.log"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        root = Path(__file__).parents[2]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "orchestrator_svc"], env=self._environment, cwd=root, stderr=log
            )
        address = self._environment["INTERLOCK_ORCHESTRATOR_INTERNAL_ADDRESS"]
        public = self._environment["INTERLOCK_ORCHESTRATOR_PUBLIC_ADDRESS"]
        self._world.addresses = Addresses(public=public, internal=address, metrics="")
        async with grpc.aio.insecure_channel(address) as opened:
            # The package's types know the blocking stub alone.
            health: Any = health_pb2_grpc.HealthStub(opened)
            asked = health_pb2.HealthCheckRequest(service="interlock.orchestrator.v1.OrchestratorService")
            try:
                await answered(lambda: health.Check(asked, timeout=1, wait_for_ready=True))
            except TimeoutError:
                raise AssertionError(self._log.read_text()) from None

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        code = await asyncio.to_thread(self._process.wait, 20)
        self._process = None
        return code


@pytest.fixture
async def process(still_world: World) -> AsyncIterator[Process]:
    process = Process(still_world)
    await process.start()
    try:
        yield process
    finally:
        await process.stop(signal.SIGKILL)


@pytest.mark.chaos
async def test_a_task_that_was_answered_survives_kill_9_and_is_claimed_after_the_restart(
    still_world: World, process: Process
) -> None:
    world = still_world
    tasks = [(await answered(world.submit)).task_id for _ in range(5)]
    await process.stop(signal.SIGKILL)
    await process.start()
    worker = world.worker()
    async with worker.session() as session:
        claimed = [await worker.must_claim(session) for _ in range(5)]
        assert [each.task_id for each in claimed] == tasks
        for each in claimed:
            await worker.complete(each)
    for task_id in tasks:
        assert (await world.get(task_id)).state == task_pb2.TASK_STATE_COMPLETED
        assert len(await world.peers.audit.of_task(task_id, 5)) == 5


@pytest.mark.chaos
async def test_an_orchestrator_killed_under_a_running_session_costs_no_attempt(
    still_world: World, process: Process
) -> None:
    world = still_world
    task = await answered(world.submit)
    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        begun = await worker.begin(claimed)
        await process.stop(signal.SIGKILL)
    await asyncio.sleep(1.2 * PROCESS_LEASE)
    await process.start()
    async with worker.session(session_id=session.session_id) as again:
        again.attempts = session.attempts
        await worker.record(claimed, worker.finished(begun, [1]))
        await asyncio.sleep(1.2 * PROCESS_LEASE)
        await worker.complete(claimed)
    stored = await world.get(task.task_id)
    assert (stored.state, stored.attempt, stored.crashes) == (task_pb2.TASK_STATE_COMPLETED, 1, 0)


@pytest.mark.chaos
async def test_sigterm_drains_and_ends_with_success(process: Process) -> None:
    assert await process.stop(signal.SIGTERM) == 0


async def _states(watch: Any) -> list[task_pb2.TaskState.ValueType]:
    """States of every event until the task has ended; the client resumes as clients do."""
    return [message.event.state async for message in watch if message.HasField("event")]
