"""QueueService: protobuf in, one call, protobuf out."""

import asyncio
from typing import Any
from uuid import UUID

from interlock.orchestrator.v1 import queue_service_pb2 as messages
from interlock.orchestrator.v1 import queue_service_pb2_grpc
from orchestrator_svc import queue_checks
from orchestrator_svc.queue_convert import queue_to_proto, worker_to_proto
from orchestrator_svc.queues import Queues
from orchestrator_svc.workers import Workers
from svc_kit.call_context import current_call
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.orchestrator.v1.QueueService"

_READERS = frozenset({Role.VIEWER, Role.SUBMITTER, Role.AUDITOR})
_ADMINS = frozenset({Role.ADMIN})
ROLES = {
    "CreateQueue": _ADMINS,
    "GetQueue": _READERS,
    "ListQueues": _READERS,
    "UpdateQueue": _ADMINS,
    "DeleteQueue": _ADMINS,
    "PauseQueue": _ADMINS,
    "ResumeQueue": _ADMINS,
    "PurgeQueue": _ADMINS,
    "ListWorkers": frozenset({Role.VIEWER}),
    "DrainWorker": _ADMINS,
    "ResumeWorker": _ADMINS,
    "EndWorker": _ADMINS,
}
# A purge answers this long before its caller gives up, and after this long at the latest.
_PURGE_MARGIN_SECONDS = 1.0
_PURGE_SECONDS = 20.0


class QueueServicer(queue_service_pb2_grpc.QueueServiceServicer):
    """Queues of the caller's tenant, and the workers that serve it."""

    def __init__(self, *, queues: Queues, workers: Workers) -> None:
        self._queues = queues
        self._workers = workers

    async def CreateQueue(
        self, request: messages.CreateQueueRequest, context: Any
    ) -> messages.CreateQueueResponse:
        asked = queue_checks.new_queue(request, acting_tenant())
        made = await self._queues.create(asked, actor=principal().subject)
        return messages.CreateQueueResponse(queue=queue_to_proto(made))

    async def GetQueue(self, request: messages.GetQueueRequest, context: Any) -> messages.GetQueueResponse:
        found = await self._queues.get(acting_tenant(), queue_checks.name(request.name))
        return messages.GetQueueResponse(queue=queue_to_proto(found, await self._queues.stats(found)))

    async def ListQueues(
        self, request: messages.ListQueuesRequest, context: Any
    ) -> messages.ListQueuesResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListQueues", tenant=tenant)
        (after,) = decode_page_token(request.page_token, question, (str,)) or ("",)
        found = await self._queues.page(tenant, after=after, limit=size + 1)
        more = len(found) > size
        return messages.ListQueuesResponse(
            queues=map(queue_to_proto, found[:size]),
            next_page_token=encode_page_token([found[size - 1].name], question) if more else "",
        )

    async def UpdateQueue(
        self, request: messages.UpdateQueueRequest, context: Any
    ) -> messages.UpdateQueueResponse:
        name, change = queue_checks.change(request)
        changed = await self._queues.update(
            acting_tenant(), name, change, etag=request.queue.etag, actor=principal().subject
        )
        return messages.UpdateQueueResponse(queue=queue_to_proto(changed))

    async def DeleteQueue(
        self, request: messages.DeleteQueueRequest, context: Any
    ) -> messages.DeleteQueueResponse:
        await self._queues.delete(
            acting_tenant(), queue_checks.name(request.name), etag=request.etag, actor=principal().subject
        )
        return messages.DeleteQueueResponse()

    async def PauseQueue(
        self, request: messages.PauseQueueRequest, context: Any
    ) -> messages.PauseQueueResponse:
        name = queue_checks.name(request.name)
        queue = await self._queues.pause(acting_tenant(), name, paused=True, actor=principal().subject)
        return messages.PauseQueueResponse(queue=queue_to_proto(queue))

    async def ResumeQueue(
        self, request: messages.ResumeQueueRequest, context: Any
    ) -> messages.ResumeQueueResponse:
        name = queue_checks.name(request.name)
        queue = await self._queues.pause(acting_tenant(), name, paused=False, actor=principal().subject)
        return messages.ResumeQueueResponse(queue=queue_to_proto(queue))

    async def PurgeQueue(
        self, request: messages.PurgeQueueRequest, context: Any
    ) -> messages.PurgeQueueResponse:
        call, seconds = current_call(), _PURGE_SECONDS
        if call is not None and call.deadline is not None:
            left = call.deadline - asyncio.get_running_loop().time() - _PURGE_MARGIN_SECONDS
            seconds = min(seconds, left)
        purged, more = await self._queues.purge(
            acting_tenant(), queue_checks.name(request.name), actor=principal().subject, seconds=seconds
        )
        return messages.PurgeQueueResponse(purged=purged, more=more)

    async def ListWorkers(
        self, request: messages.ListWorkersRequest, context: Any
    ) -> messages.ListWorkersResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListWorkers", tenant=tenant)
        (after,) = decode_page_token(request.page_token, question, (UUID,)) or (None,)
        found = await self._workers.page(tenant, after=after, limit=size + 1)
        more = len(found) > size
        last = found[size - 1].session.session_id if more else None
        return messages.ListWorkersResponse(
            workers=[worker_to_proto(worker, tenant) for worker in found[:size]],
            next_page_token=encode_page_token([last], question) if last is not None else "",
        )

    async def DrainWorker(
        self, request: messages.DrainWorkerRequest, context: Any
    ) -> messages.DrainWorkerResponse:
        worker = await self._set_draining(request.session_id, draining=True)
        return messages.DrainWorkerResponse(worker=worker)

    async def ResumeWorker(
        self, request: messages.ResumeWorkerRequest, context: Any
    ) -> messages.ResumeWorkerResponse:
        worker = await self._set_draining(request.session_id, draining=False)
        return messages.ResumeWorkerResponse(worker=worker)

    async def EndWorker(self, request: messages.EndWorkerRequest, context: Any) -> messages.EndWorkerResponse:
        tasks = await self._workers.end(
            acting_tenant(),
            queue_checks.session_id(request.session_id),
            actor=principal().subject,
            everywhere=principal().covers_all_tenants,
        )
        return messages.EndWorkerResponse(tasks=tasks)

    async def _set_draining(self, session_id: str, *, draining: bool) -> messages.Worker:
        tenant = acting_tenant()
        worker = await self._workers.set_draining(
            tenant,
            queue_checks.session_id(session_id),
            draining=draining,
            actor=principal().subject,
            everywhere=principal().covers_all_tenants,
        )
        return worker_to_proto(worker, tenant)
