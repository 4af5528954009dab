"""The stores below the services go away and come back."""

import asyncio
import signal
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc
from interlock.client import Client, InterlockError
from interlock.common.remote_error import RemoteError
from interlock.gateway.v1 import gateway_service_pb2, gateway_service_pb2_grpc
from interlock.orchestrator.v1 import orchestrator_service_pb2, orchestrator_service_pb2_grpc, task_pb2
from interlock.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from tests.e2e.observing import (
    COMPLETED,
    assert_ended_once,
    ended,
    eventually,
    outcomes,
    running_call,
    submit,
)
from tests.e2e.suite import RunningSuite
from tests.e2e.works import ECHO, NAP

pytestmark = pytest.mark.chaos


async def test_tasks_run_although_every_nudge_was_flushed(suite: RunningSuite, client: Client) -> None:
    with suite.hanging("worker"):
        task_ids = [await submit(client, ECHO.name, value=number) for number in range(30)]
        with closing(suite.valkey) as valkey:
            valkey.flushall()
    await assert_all_ran(client, task_ids)


async def test_tasks_run_although_valkey_is_flushed_and_killed_under_load(
    suite: RunningSuite, client: Client
) -> None:
    submitting = [asyncio.create_task(submit(client, ECHO.name, value=number)) for number in range(30)]
    await submitting[5]
    with closing(suite.valkey) as valkey:
        valkey.flushall()
    await submitting[10]
    suite.send("valkey", signal.SIGKILL)
    await assert_all_ran(client, await asyncio.gather(*submitting))


async def assert_all_ran(client: Client, task_ids: list[str]) -> None:
    """Each completed with its input as the result, in one attempt."""
    for number, task in enumerate(await ended(client, *task_ids)):
        assert (task.state, task.result_json, outcomes(task)) == (COMPLETED, str(number), ["COMPLETED"])


@dataclass
class Caller:
    """Calls one method again and again, and keeps what each call came to."""

    call: Callable[[], Awaitable[Any]]
    refusals: list[RemoteError] = field(default_factory=list)
    last_was_ok: bool = False

    async def run(self) -> None:
        while True:
            try:
                await self.call()
            except grpc.aio.AioRpcError as error:
                self.last_was_ok = False
                self.refusals.append(RemoteError.of(error))
            else:
                self.last_was_ok = True
            await asyncio.sleep(0.01)


async def test_a_killed_database_is_told_as_unavailable_with_a_time_to_come_back_and_nothing_is_lost(
    suite: RunningSuite, client: Client
) -> None:
    naps = [await submit(client, NAP.name, seconds=2) for _ in range(3)]
    await asyncio.gather(*(running_call(client, task_id) for task_id in naps))
    callers = {}
    async with AsyncExitStack() as stack:
        token = suite.token("SUPER_ADMIN")
        doors = {
            service: await stack.enter_async_context(suite.channel(service, token))
            for service in ("orchestrator", "registry", "gateway", "audit")
        }
        callers = everybody(doors)
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(caller.run()) for caller in callers.values()]
            await eventually(lambda: all_answer(callers))
            before = suite.send("postgres", signal.SIGKILL)
            await eventually(lambda: all_were_refused(callers))
            accepted = await asyncio.gather(*(accept(client) for _ in range(5)))
            await eventually(lambda: all_answer(callers))
            for each in running:
                each.cancel()
    assert suite.restarted("postgres", before)
    for name, caller in callers.items():
        for error in caller.refusals:
            assert error.code is grpc.StatusCode.UNAVAILABLE, f"{name}: {error}"
            assert error.retry_after is not None, f"{name}: {error}"
    tasks = await ended(client, *naps, *(task.task_id for task in accepted))
    for task in tasks:
        assert task.state == COMPLETED
        await assert_ended_once(client, task)
    found = await client.call(
        client.tasks.ListTasks, orchestrator_service_pb2.ListTasksRequest(filter='task_type = "outage"')
    )
    assert {task.task_id for task in found.tasks} == {task.task_id for task in accepted}


async def accept(client: Client) -> task_pb2.Task:
    """Submit one task, again and again under the same request id until it is answered."""
    request_id = str(uuid.uuid4())

    async def once() -> task_pb2.Task | None:
        try:
            return await client.submit(ECHO.name, '{"value":1}', task_type="outage", request_id=request_id)
        except InterlockError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None

    return await eventually(once)


def everybody(doors: dict[str, grpc.aio.Channel]) -> dict[str, Caller]:
    """A caller of each service, and one that writes."""
    tasks = orchestrator_service_pb2_grpc.OrchestratorServiceStub(doors["orchestrator"])
    agents = registry_service_pb2_grpc.RegistryServiceStub(doors["registry"])
    gateway = gateway_service_pb2_grpc.GatewayServiceStub(doors["gateway"])
    audit = audit_service_pb2_grpc.AuditServiceStub(doors["audit"])
    new_task = orchestrator_service_pb2.SubmitTaskRequest(agent=ECHO.name, input_json='{"value":0}')
    return {
        "SubmitTask": Caller(lambda: tasks.SubmitTask(new_task)),
        "ListTasks": Caller(lambda: tasks.ListTasks(orchestrator_service_pb2.ListTasksRequest())),
        "ListAgents": Caller(lambda: agents.ListAgents(registry_service_pb2.ListAgentsRequest())),
        "ListToolCalls": Caller(lambda: gateway.ListToolCalls(gateway_service_pb2.ListToolCallsRequest())),
        "GetCheckpoint": Caller(lambda: audit.GetCheckpoint(audit_service_pb2.GetCheckpointRequest())),
    }


async def all_answer(callers: dict[str, Caller]) -> bool:
    """Whether the last call of each was answered."""
    return all(caller.last_was_ok for caller in callers.values())


async def all_were_refused(callers: dict[str, Caller]) -> bool:
    """Whether each was refused at least once."""
    return all(caller.refusals for caller in callers.values())
