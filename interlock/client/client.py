"""The asynchronous client: the stubs of every service, and a few methods that do more than one call."""

import asyncio
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Self, TypeVar

import grpc

from interlock.audit.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    erasure_service_pb2_grpc,
    retention_service_pb2_grpc,
)
from interlock.client.errors import InterlockError
from interlock.client.safe_methods import SAFE_METHODS
from interlock.client.watching import (
    TERMINAL,
    Interrupted,
    ListInterrupted,
    Pause,
    follow,
    follow_log,
    follow_tasks,
    mendable,
)
from interlock.common import documents
from interlock.common.channel import ClientTls, TokenSource, channel
from interlock.gateway.v1 import (
    approval_service_pb2_grpc,
    connection_service_pb2_grpc,
    gateway_service_pb2_grpc,
    limit_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, queue_service_pb2_grpc, task_pb2
from interlock.registry.v1 import registry_service_pb2_grpc, tool_service_pb2_grpc

Answer = TypeVar("Answer")

_BLOB_SECONDS = 60.0
# One call waits no longer than this; a longer wait is made of several.
_WAIT_SECONDS = 60.0


class Client:
    """A suite, by the addresses of its public doors.

    `addresses` maps orchestrator, registry, gateway and audit to `host:port`; those that are used are needed.
    `token` gives a bearer token before each call. Use it as `async with`.

    Every call has a deadline (10 s unless it names one), and what may be repeated without doing a thing twice
    is repeated while a service is away.
    """

    def __init__(
        self, addresses: Mapping[str, str], token: TokenSource, *, tls: ClientTls | None = None
    ) -> None:
        self._addresses = addresses
        self._token = token
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        for open_channel in self._channels.values():
            await open_channel.close()
        self._channels.clear()

    @property
    def tasks(self) -> "orchestrator_service_pb2_grpc.OrchestratorServiceAsyncStub":
        """OrchestratorService."""
        return orchestrator_service_pb2_grpc.OrchestratorServiceStub(self.channel("orchestrator"))

    @property
    def queues(self) -> "queue_service_pb2_grpc.QueueServiceAsyncStub":
        """QueueService."""
        return queue_service_pb2_grpc.QueueServiceStub(self.channel("orchestrator"))

    @property
    def agents(self) -> "registry_service_pb2_grpc.RegistryServiceAsyncStub":
        """RegistryService."""
        return registry_service_pb2_grpc.RegistryServiceStub(self.channel("registry"))

    @property
    def tools(self) -> "tool_service_pb2_grpc.ToolServiceAsyncStub":
        """ToolService."""
        return tool_service_pb2_grpc.ToolServiceStub(self.channel("registry"))

    @property
    def gateway(self) -> "gateway_service_pb2_grpc.GatewayServiceAsyncStub":
        """GatewayService."""
        return gateway_service_pb2_grpc.GatewayServiceStub(self.channel("gateway"))

    @property
    def policies(self) -> "policy_service_pb2_grpc.PolicyServiceAsyncStub":
        """PolicyService."""
        return policy_service_pb2_grpc.PolicyServiceStub(self.channel("gateway"))

    @property
    def approvals(self) -> "approval_service_pb2_grpc.ApprovalServiceAsyncStub":
        """Stub of the gateway's ApprovalService."""
        return approval_service_pb2_grpc.ApprovalServiceStub(self.channel("gateway"))

    @property
    def connections(self) -> "connection_service_pb2_grpc.ConnectionServiceAsyncStub":
        """ConnectionService."""
        return connection_service_pb2_grpc.ConnectionServiceStub(self.channel("gateway"))

    @property
    def limits(self) -> "limit_service_pb2_grpc.LimitServiceAsyncStub":
        """LimitService."""
        return limit_service_pb2_grpc.LimitServiceStub(self.channel("gateway"))

    @property
    def audit(self) -> "audit_service_pb2_grpc.AuditServiceAsyncStub":
        """AuditService."""
        return audit_service_pb2_grpc.AuditServiceStub(self.channel("audit"))

    @property
    def erasures(self) -> "erasure_service_pb2_grpc.ErasureServiceAsyncStub":
        """ErasureService, of the audit log."""
        return erasure_service_pb2_grpc.ErasureServiceStub(self.channel("audit"))

    @property
    def retention(self) -> "retention_service_pb2_grpc.RetentionServiceAsyncStub":
        """RetentionService."""
        return retention_service_pb2_grpc.RetentionServiceStub(self.channel("audit"))

    async def submit(
        self,
        agent: str,
        input_json: str,
        *,
        agent_version: str = "",
        task_type: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
        **options: Any,
    ) -> task_pb2.Task:
        """Submit a task and return it, durable. Raises InterlockError.

        An input of more than 256 KiB, and up to 16 MiB, is sent ahead as a blob.
        A request id is made when none is given, so that a repeat over a lost connection makes no second task.
        `options` are further fields of SubmitTaskRequest, such as `retry` or `schedule_to_close_timeout`.
        """
        request = messages.SubmitTaskRequest(
            agent=agent,
            agent_version=agent_version,
            task_type=task_type,
            labels=labels,
            request_id=request_id or str(uuid.uuid4()),
            **options,
        )
        data = input_json.encode()
        if len(data) > documents.INLINE_BYTES:
            request.input_blob = await self.put_blob(data)
        else:
            request.input_json = input_json
        return (await self.call(self.tasks.SubmitTask, request)).task

    async def retry(self, task_id: str, *, request_id: str = "", from_step: str = "") -> task_pb2.Task:
        """A new task from one that has ended: same agent version, same input. Raises InterlockError.

        With `from_step` it takes over the finished steps that began before that one.
        """
        request = messages.RetryTaskRequest(
            task_id=task_id, request_id=request_id or str(uuid.uuid4()), from_step=from_step
        )
        return (await self.call(self.tasks.RetryTask, request)).task

    async def get(self, task_id: str) -> task_pb2.Task:
        """One task with input, result and attempts, fetched where they are blobs. Raises InterlockError."""
        return await self._whole(
            (await self.call(self.tasks.GetTask, messages.GetTaskRequest(task_id=task_id))).task
        )

    async def put_blob(self, data: bytes) -> str:
        """Store a JSON document of up to 16 MiB; the digest that names it. Raises InterlockError.

        The name is that of the document's canonical form. To store it again is to store nothing.
        """
        head = messages.PutBlobRequest(digest=documents.digest(data))
        body = (messages.PutBlobRequest(chunk=chunk) for chunk in documents.chunks(data))
        try:
            stored = await documents.upload(self.tasks.PutBlob, head, body, timeout=_BLOB_SECONDS)
            return str(stored.digest)
        except grpc.aio.AioRpcError as error:
            raise InterlockError.of(error) from None

    async def get_blob(self, digest: str) -> str:
        """A document by its digest, against which it is checked. Raises InterlockError or DocumentDamaged."""
        answers = self.tasks.GetBlob(messages.GetBlobRequest(digest=digest), timeout=_BLOB_SECONDS)
        try:
            return await documents.gathered((answer.chunk async for answer in answers), named=digest)
        except grpc.aio.AioRpcError as error:
            raise InterlockError.of(error) from None

    async def cancel(self, task_id: str) -> task_pb2.Task:
        """End a task; the task after the request. Raises InterlockError."""
        return (await self.call(self.tasks.CancelTask, messages.CancelTaskRequest(task_id=task_id))).task

    async def pause(self, task_id: str) -> task_pb2.Task:
        """Make a task stand still; the task after the request. Raises InterlockError."""
        return (await self.call(self.tasks.PauseTask, messages.PauseTaskRequest(task_id=task_id))).task

    async def resume(self, task_id: str) -> task_pb2.Task:
        """Let a paused task go on; the task after the request. Raises InterlockError."""
        return (await self.call(self.tasks.ResumeTask, messages.ResumeTaskRequest(task_id=task_id))).task

    async def answer(self, task_id: str, answer_json: str, *, input_id: str = "") -> task_pb2.Task:
        """Give a task the input that it asks for; the task after the request. Raises InterlockError."""
        request = messages.ProvideInputRequest(task_id=task_id, input_id=input_id, answer_json=answer_json)
        return (await self.call(self.tasks.ProvideInput, request)).task

    def watch(
        self,
        task_id: str,
        *,
        after_revision: int = 0,
        progress: bool = False,
        interrupted: Interrupted | None = None,
    ) -> AsyncGenerator[messages.WatchTaskResponse, None]:
        """Every change of a task from a revision on, without gaps and repeats, until it is terminal.

        With `progress` also what the live attempt says of itself, of which the last word alone counts.
        The stream is taken up again by itself when it breaks, for as long as the caller waits; `interrupted`
        is told why each time. Where what follows is no longer kept, or the database was restored, it goes on
        with a fresh snapshot, and `interrupted` is told revision 0. Raises InterlockError.
        """
        return follow(
            lambda revision: self.tasks.WatchTask(
                messages.WatchTaskRequest(task_id=task_id, after_revision=revision, include_progress=progress)
            ),
            after_revision=after_revision,
            interrupted=interrupted,
        )

    def watch_tasks(
        self,
        filter: str = "",  # noqa: A002 - the contract's word
        *,
        cursor: str = "",
        from_now: bool = False,
        interrupted: ListInterrupted | None = None,
    ) -> AsyncGenerator[messages.WatchTasksResponse, None]:
        """Every change of the tasks that a filter names, without gaps and repeats, for ever.

        It begins with the list as it is, at a cursor of an earlier watch, or with what comes from now on. It
        is taken up again by itself when it breaks; where that is not possible (what follows is no longer
        kept, or the database was restored) the list comes anew, in parts of which one is marked `first`.
        `interrupted` is told each time. Raises InterlockError.
        """
        return follow_tasks(
            lambda at, now: self.tasks.WatchTasks(
                messages.WatchTasksRequest(filter=filter, cursor=at, from_now=now)
            ),
            cursor=cursor,
            from_now=from_now,
            interrupted=interrupted,
        )

    def tail(
        self,
        filter: str = "",  # noqa: A002 - the contract's word
        *,
        begin: int = 0,
        from_now: bool = False,
        interrupted: Interrupted | None = None,
    ) -> AsyncGenerator[audit_service_pb2.TailEntriesResponse, None]:
        """The audit log from an index on, each entry once, in order, for ever; without contents.

        It is taken up again by itself when it breaks, of which `interrupted` is told with the index where it
        goes on. Raises InterlockError.
        """
        return follow_log(
            lambda at, now: self.audit.TailEntries(
                audit_service_pb2.TailEntriesRequest(begin=at, from_now=now, filter=filter)
            ),
            begin=begin,
            from_now=from_now,
            interrupted=interrupted,
        )

    async def wait(self, task_id: str, *, timeout: float | None = None) -> task_pb2.Task:
        """The task with its result once it is terminal, or as it is after `timeout` seconds.

        Waits on while the service is away. Raises InterlockError.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + timeout if timeout is not None else math.inf
        pause = Pause()
        while True:
            seconds = max(0.0, min(_WAIT_SECONDS, end - clock()))
            request = messages.WaitTaskRequest(task_id=task_id)
            request.timeout.FromMilliseconds(round(seconds * 1000))
            try:
                task = (
                    await self.call(lambda r, s=seconds: self.tasks.WaitTask(r, timeout=s + 10), request)
                ).task
            except InterlockError as problem:
                if not mendable(problem) or clock() >= end:
                    raise
                await pause.take(problem.retry_after or 0.0)
                continue
            pause.over()
            if task.state in TERMINAL or clock() >= end:
                return await self._whole(task)

    async def _whole(self, task: task_pb2.Task) -> task_pb2.Task:
        """With input and result in place where they are blobs."""
        if task.input_blob:
            task.input_json = await self.get_blob(task.input_blob)
        if task.result_blob:
            task.result_json = await self.get_blob(task.result_blob)
        return task

    async def call(self, method: Callable[..., Awaitable[Answer]], request: Any) -> Answer:
        """One unary call; raises InterlockError with everything that the server said."""
        try:
            return await method(request)
        except grpc.aio.AioRpcError as error:
            raise InterlockError.of(error) from None

    async def stream(
        self, method: Callable[..., AsyncIterable[Answer]], request: Any
    ) -> AsyncIterator[Answer]:
        """Each answer of one streaming call; raises InterlockError as `call` does."""
        try:
            async for answer in method(request):
                yield answer
        except grpc.aio.AioRpcError as error:
            raise InterlockError.of(error) from None

    def channel(self, service: str) -> grpc.aio.Channel:
        """The connection to a service, for calls that no stub is at hand for."""
        if service not in self._channels:
            self._channels[service] = channel(
                self._addresses[service], self._token, safe_methods=SAFE_METHODS, tls=self._tls
            )
        return self._channels[service]
