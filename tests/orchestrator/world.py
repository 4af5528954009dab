"""An orchestrator behind its doors, with everything around it, and callers of every kind."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import grpc
import psycopg

from interlock.orchestrator.v1 import (
    orchestrator_service_pb2 as messages,
)
from interlock.orchestrator.v1 import (
    orchestrator_service_pb2_grpc,
    task_pb2,
    worker_service_pb2_grpc,
)
from interlock_suite.databases import ServiceDatabase
from orchestrator_svc.config import OrchestratorSettings
from orchestrator_svc.server import build
from svc_kit.clients import channel
from svc_kit.identity import SYSTEM_TENANT, LocalIssuer, Role, TokenVerifier
from svc_kit.server import Addresses, running_server
from svc_kit.status import RemoteError, from_rpc_error
from tests.orchestrator.peers import AGENT, TENANT, Peers
from tests.orchestrator.worker import Worker

if TYPE_CHECKING:
    People = orchestrator_service_pb2_grpc.OrchestratorServiceAsyncStub

LEASE = 2.0


@dataclass(kw_only=True)
class World:
    """What a test stands in."""

    folder: Path
    database: ServiceDatabase
    issuer: LocalIssuer
    peers: Peers
    settings: OrchestratorSettings
    stack: AsyncExitStack
    addresses: Addresses = field(default_factory=lambda: Addresses(public="", internal="", metrics=""))

    def people(self, *roles: Role, tenant: str = TENANT, subject: str = "ada@example.org") -> "People":
        """A person at the public door; a DEVELOPER where no roles are given."""
        opened = self.channel(self.addresses.public, roles or (Role.DEVELOPER,), tenant, subject)
        return orchestrator_service_pb2_grpc.OrchestratorServiceStub(opened)

    def worker(
        self,
        *,
        subject: str = "worker-1",
        pools: Iterable[tuple[str, str]] = ((TENANT, "default"),),
    ) -> Worker:
        """A worker at the internal door."""
        token = self.issuer.mint(subject, SYSTEM_TENANT, [Role.WORKER], 600, pools)
        return Worker(worker_service_pb2_grpc.WorkerServiceStub(self._open(token)), self.peers.gateway)

    def channel(self, address: str, roles: Iterable[Role], tenant: str, subject: str) -> grpc.aio.Channel:
        """A channel with a token."""
        return self._open(self.issuer.mint(subject, tenant, roles, 600), address)

    def _open(self, token: str, address: str = "") -> grpc.aio.Channel:
        opened = channel(address or self.addresses.internal, lambda: token, deadline=15)
        self.stack.push_async_callback(opened.close)
        return opened

    @asynccontextmanager
    async def serving(self, **changes: Any) -> AsyncIterator["World"]:
        """One orchestrator process, within this one."""
        settings = self.settings.model_copy(update=changes)
        orchestrator = build(settings)
        verifier = TokenVerifier([self.issuer.trusted()])
        async with running_server(
            orchestrator.services, settings, verifier=verifier, lifespan=orchestrator.lifespan
        ) as addresses:
            self.addresses = addresses
            yield self

    async def submit(self, **fields: Any) -> task_pb2.Task:
        """Submit a task of the usual agent."""
        return (await self.people().SubmitTask(request(**fields))).task

    async def get(self, task_id: str) -> task_pb2.Task:
        return (await self.people().GetTask(messages.GetTaskRequest(task_id=task_id))).task

    async def rows(self, statement: LiteralString) -> list[tuple[Any, ...]]:
        """What a statement returns."""
        async with await psycopg.AsyncConnection.connect(self.database.service_url) as connection:
            return await (await connection.execute(statement)).fetchall()

    async def positions(self) -> list[int]:
        """Positions of every event in the log, in order."""
        return [row[0] for row in await self.rows("SELECT position FROM task_event ORDER BY position")]

    async def history(self, task_id: str) -> list[task_pb2.TaskEvent]:
        """Every event of an ended task."""
        watch = self.people().WatchTask(messages.WatchTaskRequest(task_id=task_id, after_revision=0))
        snapshot = (await anext(aiter(watch))).snapshot
        watch.cancel()
        if snapshot.revision == 1:
            return []
        replay = self.people().WatchTask(messages.WatchTaskRequest(task_id=task_id, after_revision=1))
        return [message.event async for message in replay if message.HasField("event")]

    async def until_refused(self, **fields: Any) -> RemoteError:
        """Ask for such a task, without storing it, until that is refused: the feed tells in its own time."""
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.submit(**fields, validate_only=True)
                except grpc.aio.AioRpcError as error:
                    return from_rpc_error(error)
                await asyncio.sleep(0.02)

    async def until(
        self, task_id: str, state: task_pb2.TaskState.ValueType, seconds: float = 15
    ) -> task_pb2.Task:
        """The task once it is in that state."""
        async with asyncio.timeout(seconds):
            while True:
                task = await self.get(task_id)
                if task.state == state:
                    return task
                await asyncio.sleep(0.05)


def request(**fields: Any) -> messages.SubmitTaskRequest:
    """A good SubmitTask request, with changes."""
    if fields.keys().isdisjoint({"input", "input_json", "input_blob"}):
        fields["input_json"] = json.dumps({"path": "a.csv"})
    return messages.SubmitTaskRequest(**{"agent": AGENT, **fields})


async def refused(call: Any) -> RemoteError:
    """The error that a call is answered with."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError(f"the call was not refused: {answer}")


async def refused_stream(call: Any) -> RemoteError:
    """The error that a streamed call ends with."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    raise AssertionError("the stream was not refused")


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Returns when the condition holds."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)
