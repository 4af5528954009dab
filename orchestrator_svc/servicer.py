"""OrchestratorService: protobuf in, one call, protobuf out."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc, task_pb2
from orchestrator_svc import checks, convert, cursors, field_checks, filtering, metrics
from orchestrator_svc.attempt_feed import AttemptFeed
from orchestrator_svc.blobs import Blobs
from orchestrator_svc.errors import payloads_forbidden
from orchestrator_svc.explain import Explanations
from orchestrator_svc.inputs import Inputs, Provision
from orchestrator_svc.records import Place, Task
from orchestrator_svc.repeats import RedriveRequest, Repeats
from orchestrator_svc.rights import Rights
from orchestrator_svc.submissions import Caller, Submissions
from orchestrator_svc.task_metrics import TaskMetrics
from orchestrator_svc.task_metrics_messages import metrics_answer, metrics_query
from orchestrator_svc.tasks import Tasks
from orchestrator_svc.watch import Watches
from orchestrator_svc.watch_tasks import TaskListWatches
from svc_kit.call_context import current_call
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.orchestrator.v1.OrchestratorService"

READERS = frozenset({Role.VIEWER, Role.SUBMITTER, Role.AUDITOR})
SUBMITTERS = frozenset({Role.SUBMITTER, Role.DEVELOPER})
PAYLOAD_READERS = frozenset({Role.DEVELOPER, Role.SUBMITTER, Role.AUDITOR})
ROLES = {
    "SubmitTask": SUBMITTERS,
    "GetTask": READERS,
    "ListTasks": READERS,
    "CancelTask": SUBMITTERS,
    "PauseTask": SUBMITTERS,
    "ResumeTask": SUBMITTERS,
    "ProvideInput": SUBMITTERS | {Role.SERVICE},
    "RetryTask": SUBMITTERS,
    "RedriveTasks": SUBMITTERS,
    "CountTasks": READERS,
    "QueryTaskMetrics": READERS,
    "PutBlob": SUBMITTERS,
    "GetBlob": READERS,
    "WatchTask": READERS,
    "WatchTasks": READERS,
    "WaitTask": READERS,
    "ListTaskEvents": READERS,
    "ListTaskSteps": READERS,
    "WatchAttempts": frozenset({Role.SERVICE}),
    "ListChildTasks": READERS,
    "ExplainTask": READERS,
    "GetPublicKeys": frozenset(Role),
}
WAITING = frozenset({"WaitTask"})
# What is left of a call's time for the answer, when it waits for as long as it may.
_ANSWER_SECONDS = 0.5
# A page of steps with payloads must fit one message.
_PAGE_WITH_PAYLOADS = 50


class OrchestratorServicer(orchestrator_service_pb2_grpc.OrchestratorServiceServicer):
    """Tasks of the caller's tenant."""

    def __init__(
        self,
        *,
        submissions: Submissions,
        repeats: Repeats,
        tasks: Tasks,
        task_metrics: TaskMetrics,
        inputs: Inputs,
        blobs: Blobs,
        watches: Watches,
        attempts: AttemptFeed,
        lists: TaskListWatches,
        explanations: Explanations,
        rights: Rights,
    ) -> None:
        self._submissions = submissions
        self._repeats = repeats
        self._tasks = tasks
        self._task_metrics = task_metrics
        self._inputs = inputs
        self._blobs = blobs
        self._watches = watches
        self._attempts = attempts
        self._lists = lists
        self._explanations = explanations
        self._rights = rights

    async def SubmitTask(
        self, request: messages.SubmitTaskRequest, context: Any
    ) -> messages.SubmitTaskResponse:
        asked = checks.submission(request)
        task = await self._submissions.submit(_caller(), asked, validate_only=request.validate_only)
        return messages.SubmitTaskResponse(task=convert.task_to_proto(task))

    async def GetTask(self, request: messages.GetTaskRequest, context: Any) -> messages.GetTaskResponse:
        tenant = acting_tenant()
        details = await self._tasks.get(tenant, field_checks.task_id(request.task_id))
        (task,) = await self._explanations.shown(tenant, [details.task])
        return messages.GetTaskResponse(
            task=convert.details_to_proto(replace(details, task=task), payloads=_sees_payloads())
        )

    async def ListTasks(self, request: messages.ListTasksRequest, context: Any) -> messages.ListTasksResponse:
        tenant = acting_tenant()
        size = page_size(request.page_size)
        conditions = filtering.conditions(request.filter)
        question = Question(method="ListTasks", tenant=tenant, filter=request.filter)
        token = decode_page_token(request.page_token, question, (datetime, uuid.UUID))
        after = Place(create_time=token[0], task_id=token[1]) if token is not None else None
        found = await self._tasks.page(tenant, conditions, after=after, limit=size + 1)
        found = await self._explanations.shown(tenant, found)
        page, next_page_token = _page(found, size, question)
        return messages.ListTasksResponse(tasks=page, next_page_token=next_page_token)

    async def CancelTask(
        self, request: messages.CancelTaskRequest, context: Any
    ) -> messages.CancelTaskResponse:
        task = await self._tasks.cancel(
            acting_tenant(), field_checks.task_id(request.task_id), actor=principal().subject
        )
        return messages.CancelTaskResponse(task=convert.task_to_proto(task))

    async def PauseTask(self, request: messages.PauseTaskRequest, context: Any) -> messages.PauseTaskResponse:
        task = await self._tasks.pause(
            acting_tenant(), field_checks.task_id(request.task_id), actor=principal().subject
        )
        return messages.PauseTaskResponse(task=convert.task_to_proto(task))

    async def ResumeTask(
        self, request: messages.ResumeTaskRequest, context: Any
    ) -> messages.ResumeTaskResponse:
        task = await self._tasks.resume(
            acting_tenant(), field_checks.task_id(request.task_id), actor=principal().subject
        )
        return messages.ResumeTaskResponse(task=convert.task_to_proto(task))

    async def ProvideInput(
        self, request: messages.ProvideInputRequest, context: Any
    ) -> messages.ProvideInputResponse:
        task_id, input_id, answer = checks.provision(request)
        caller = principal()
        given = Provision(
            tenant=acting_tenant(),
            task_id=task_id,
            input_id=input_id,
            json=answer,
            subject=caller.subject,
            decides=caller.has(Role.SERVICE),
        )
        task = await self._inputs.provide(given)
        return messages.ProvideInputResponse(task=convert.task_to_proto(task))

    async def PutBlob(
        self, request_iterator: AsyncIterator[messages.PutBlobRequest], context: Any
    ) -> messages.PutBlobResponse:
        first = await anext(request_iterator, messages.PutBlobRequest())
        expected = field_checks.blob(first.digest) if first.digest else ""
        await context.send_initial_metadata(())  # the sender may go on

        async def chunks() -> AsyncIterator[bytes]:
            yield first.chunk
            async for message in request_iterator:
                yield message.chunk

        stored = await self._blobs.put(acting_tenant(), chunks(), expected=expected)
        return messages.PutBlobResponse(digest=stored.digest, size=stored.size)

    async def GetBlob(
        self, request: messages.GetBlobRequest, context: Any
    ) -> AsyncGenerator[messages.GetBlobResponse]:
        async with aclosing(self._blobs.read(acting_tenant(), field_checks.blob(request.digest))) as parts:
            async for part in parts:
                yield messages.GetBlobResponse(chunk=part)

    async def RetryTask(self, request: messages.RetryTaskRequest, context: Any) -> messages.RetryTaskResponse:
        task_id, request_id = field_checks.task_id(request.task_id), checks.request_id(request.request_id)
        from_step = field_checks.step_key(request.from_step, field="from_step") if request.from_step else ""
        task = await self._repeats.retry(_caller(), task_id, request_id, from_step=from_step)
        return messages.RetryTaskResponse(task=convert.task_to_proto(task))

    async def RedriveTasks(
        self, request: messages.RedriveTasksRequest, context: Any
    ) -> messages.RedriveTasksResponse:
        asked = RedriveRequest(
            filter=request.filter,
            conditions=filtering.conditions(request.filter),
            limit=checks.max_tasks(request.max_tasks),
            request_id=checks.request_id(request.request_id),
        )
        done = await self._repeats.redrive(_caller(), asked, validate_only=request.validate_only)
        return messages.RedriveTasksResponse(
            count=done.count,
            task_ids=[str(task_id) for task_id in done.task_ids],
            inactive=done.inactive,
            more=done.more,
        )

    async def WatchTask(
        self, request: messages.WatchTaskRequest, context: Any
    ) -> AsyncGenerator[messages.WatchTaskResponse]:
        task_id, after = field_checks.task_id(request.task_id), checks.after_revision(request.after_revision)
        updates = self._watches.watch(
            acting_tenant(), task_id, after=after, progress=request.include_progress
        )
        payloads = _sees_payloads()
        with metrics.WATCHERS.track_inprogress():
            async with aclosing(updates):
                async for update in updates:
                    yield convert.update_to_proto(update, payloads=payloads)

    async def WatchTasks(
        self, request: messages.WatchTasksRequest, context: Any
    ) -> AsyncGenerator[messages.WatchTasksResponse]:
        scope = cursors.Scope(tenant=acting_tenant(), filter=request.filter)
        cursor = cursors.decode(request.cursor, scope)
        updates = self._lists.watch(scope, cursor, from_now=request.from_now)
        with metrics.WATCHERS.track_inprogress():
            async with aclosing(updates):
                async for update in updates:
                    yield convert.list_update_to_proto(update)

    async def WaitTask(self, request: messages.WaitTaskRequest, context: Any) -> messages.WaitTaskResponse:
        tenant, (task_id, seconds) = acting_tenant(), checks.wait(request)
        call = current_call()
        if call is not None and call.deadline is not None:
            remaining = call.deadline - asyncio.get_running_loop().time()
            seconds = min(seconds, max(0.0, remaining - _ANSWER_SECONDS))
        await self._watches.until_terminal(tenant, task_id, seconds=seconds)
        return messages.WaitTaskResponse(
            task=convert.details_to_proto(await self._tasks.get(tenant, task_id), payloads=_sees_payloads())
        )

    async def ListTaskEvents(
        self, request: messages.ListTaskEventsRequest, context: Any
    ) -> messages.ListTaskEventsResponse:
        tenant, task_id = acting_tenant(), field_checks.task_id(request.task_id)
        size = page_size(request.page_size)
        question = Question(method="ListTaskEvents", tenant=tenant, filter=str(task_id))
        (after,) = decode_page_token(request.page_token, question, (int,)) or (0,)
        found = await self._watches.events(tenant, task_id, after=after, limit=size + 1)
        page = convert.fitting(map(convert.event_to_proto, found.events[:size]))
        more = len(found.events) > len(page)
        return messages.ListTaskEventsResponse(
            events=page,
            next_page_token=encode_page_token([page[-1].revision], question) if more else "",
            compact_revision=found.compact_revision,
        )

    async def CountTasks(
        self, request: messages.CountTasksRequest, context: Any
    ) -> messages.CountTasksResponse:
        limit = checks.count_limit(request.limit)
        conditions = filtering.conditions(request.filter)
        count = await self._tasks.count(acting_tenant(), conditions, limit=limit + 1)
        return messages.CountTasksResponse(count=min(count, limit), more=count > limit)

    async def QueryTaskMetrics(
        self, request: messages.QueryTaskMetricsRequest, context: Any
    ) -> messages.QueryTaskMetricsResponse:
        query = metrics_query(request, now=datetime.now(UTC))
        return metrics_answer(query, await self._task_metrics.query(acting_tenant(), query))

    async def ListTaskSteps(
        self, request: messages.ListTaskStepsRequest, context: Any
    ) -> messages.ListTaskStepsResponse:
        tenant, task_id = acting_tenant(), field_checks.task_id(request.task_id)
        payloads = request.include_payloads
        if payloads and not _sees_payloads():
            raise payloads_forbidden(PAYLOAD_READERS)
        size = page_size(request.page_size)
        size = min(size, _PAGE_WITH_PAYLOADS) if payloads else size
        question = Question(method="ListTaskSteps", tenant=tenant, filter=f"{task_id} {payloads}")
        (after,) = decode_page_token(request.page_token, question, (int,)) or (0,)
        found = await self._tasks.steps(tenant, task_id, after=after, limit=size + 1)
        page = convert.fitting(convert.step_to_proto(step, payloads=payloads) for step in found[:size])
        more = len(found) > len(page)
        return messages.ListTaskStepsResponse(
            steps=page,
            next_page_token=encode_page_token([page[-1].ordinal], question) if more else "",
        )

    async def WatchAttempts(
        self, request: messages.WatchAttemptsRequest, context: Any
    ) -> AsyncGenerator[messages.WatchAttemptsResponse]:
        slices = self._attempts.follow(checks.watched(request))
        async with aclosing(slices):
            async for each in slices:
                yield convert.attempts_to_proto(each)

    async def ListChildTasks(
        self, request: messages.ListChildTasksRequest, context: Any
    ) -> messages.ListChildTasksResponse:
        tenant, task_id = acting_tenant(), field_checks.task_id(request.task_id)
        size = page_size(request.page_size)
        question = Question(method="ListChildTasks", tenant=tenant, filter=str(task_id))
        token = decode_page_token(request.page_token, question, (datetime, uuid.UUID))
        after = Place(create_time=token[0], task_id=token[1]) if token is not None else None
        found = await self._tasks.children(tenant, task_id, after=after, limit=size + 1)
        page, next_page_token = _page(found, size, question)
        return messages.ListChildTasksResponse(tasks=page, next_page_token=next_page_token)

    async def ExplainTask(
        self, request: messages.ExplainTaskRequest, context: Any
    ) -> messages.ExplainTaskResponse:
        explained = await self._explanations.explain(acting_tenant(), field_checks.task_id(request.task_id))
        return convert.explanation_to_proto(explained)

    async def GetPublicKeys(
        self, request: messages.GetPublicKeysRequest, context: Any
    ) -> messages.GetPublicKeysResponse:
        return messages.GetPublicKeysResponse(keys=self._rights.public_keys())


def _caller() -> Caller:
    caller, call = principal(), current_call()
    return Caller(
        tenant=acting_tenant(),
        home=caller.tenant,
        subject=caller.subject,
        roles=tuple(sorted(caller.roles)),
        traceparent=call.traceparent if call is not None else "",
    )


def _page(found: Sequence[Task], size: int, question: Question) -> tuple[list[task_pb2.Task], str]:
    """As many of them as fit, and where the next page begins."""
    page = convert.fitting(map(convert.task_to_proto, found[:size]))
    last = found[len(page) - 1] if len(found) > len(page) else None
    return page, encode_page_token([last.create_time, last.task_id], question) if last else ""


def _sees_payloads() -> bool:
    return any(principal().has(role) for role in PAYLOAD_READERS)
