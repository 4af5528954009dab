"""Between the contract's messages and the orchestrator's records. Pure."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2
from interlock.registry.v1 import agent_pb2
from orchestrator_svc import records
from orchestrator_svc.attempt_feed import Slice, Standing
from orchestrator_svc.explain import MOST, BlockerKind, Explanation
from orchestrator_svc.hub import Change
from orchestrator_svc.lifecycle import NEVER, InputKind, TaskError, TaskState, Timeout, WaitReason
from orchestrator_svc.retry import RetryPolicy
from orchestrator_svc.watch import Update, UpToDate
from orchestrator_svc.watch_tasks import ListPart, ListUpdate
from svc_kit.strict_json import JsonValue, fits_struct, json_to_struct

M = TypeVar("M", bound=Message)

# A Struct takes three levels of messages for each of JSON, and parsers stop at a hundred.
_MAX_STRUCT_DEPTH = 28
# Beyond so many attempts their errors are shown shortened, so that the task fits one reply.
_MAX_FULL_ATTEMPTS = 100
_SHORT_MESSAGE = 512
_MAX_PAGE_BYTES = 3 * 2**20

_STATES = {state: task_pb2.TaskState.Value(f"TASK_STATE_{state}") for state in TaskState}
_REASONS = {reason: task_pb2.WaitReason.Value(f"WAIT_REASON_{reason}") for reason in WaitReason}
_INPUTS = {kind: task_pb2.InputKind.Value(f"INPUT_KIND_{kind}") for kind in InputKind}
_TIMEOUTS = {kind: task_pb2.TimeoutKind.Value(f"TIMEOUT_KIND_{kind}") for kind in Timeout}
_BLOCKERS = {kind: orchestrator_service_pb2.BlockerKind.Value(f"BLOCKER_KIND_{kind}") for kind in BlockerKind}
_KINDS = {kind: task_pb2.StepKind.Value(f"STEP_KIND_{kind}") for kind in records.StepKind}
_STATUSES = {status: task_pb2.StepStatus.Value(f"STEP_STATUS_{status}") for status in records.StepStatus}
_CLOSE_POLICIES = {
    None: task_pb2.CLOSE_POLICY_UNSPECIFIED,
    records.ClosePolicy.CANCEL: task_pb2.CLOSE_POLICY_CANCEL,
    records.ClosePolicy.ABANDON: task_pb2.CLOSE_POLICY_ABANDON,
}
_EVENTS = {kind: task_pb2.EventType.Value(f"EVENT_TYPE_{kind}") for kind in records.EventType}
_STANDINGS = {
    each: orchestrator_service_pb2.AttemptStanding.Value(f"ATTEMPT_STANDING_{each}") for each in Standing
}


def state_to_proto(state: TaskState) -> task_pb2.TaskState.ValueType:
    """A state."""
    return _STATES[state]


def task_to_proto(task: records.Task) -> task_pb2.Task:
    """A task without input, result and attempts; one without revision has not been stored."""
    status = task.status
    stored = task.revision > 0
    return task_pb2.Task(
        task_id=str(task.task_id) if stored else "",
        agent=task.agent.name,
        agent_version=task.agent.version,
        task_type=task.task_type,
        state=_STATES[status.state],
        wait_reason=_reason(status.wait_reason),
        error=_error(status.error),
        attempt=status.attempt,
        failures=status.failures,
        crashes=status.crashes,
        retry_count=max(0, status.attempt - 1),
        run_after=(
            time_to_proto(max(status.run_after, task.create_time))
            if stored and status.run_after < NEVER
            else None
        ),
        revision=task.revision,
        create_time=time_to_proto(task.create_time) if stored else None,
        start_time=time_to_proto(task.start_time),
        end_time=time_to_proto(task.end_time),
        submitter=task.submitter,
        retried_from=str(task.retried_from) if task.retried_from else "",
        labels=task.labels,
        isolation=str(task.agent.isolation),
        input_kind=_input_kind(status.input_kind),
        pause_requested=status.pausing,
        dead_lettered=status.dead_lettered,
        from_step=task.from_step,
        retry=_policy(task.agent.retry),
        start_to_close_timeout=duration_to_proto(task.agent.start_to_close),
        schedule_to_start_timeout=duration_to_proto(task.timeouts.schedule_to_start),
        schedule_to_close_timeout=duration_to_proto(task.timeouts.schedule_to_close),
        expire_time=time_to_proto(status.expires) if stored else None,
        queue=task.placement.queue,
        pool=task.pool,
        priority=task.placement.priority,
        fairness_key=task.placement.fairness_key,
        concurrency_key=task.placement.concurrency_key,
        parent_task_id=str(task.lineage.parent or ""),
        root_task_id=str(task.lineage.root or task.task_id) if stored else "",
        depth=task.lineage.depth,
        close_policy=_CLOSE_POLICIES[task.lineage.close_policy],
        usage=usage_to_proto(task.usage),
        erase_time=time_to_proto(task.erase_time),
    )


def details_to_proto(details: records.TaskDetails, *, payloads: bool) -> task_pb2.Task:
    """A task with everything that belongs to it; `payloads` as in update_to_proto."""
    message = task_to_proto(details.task)
    message.input_json = details.input_json
    message.input_blob, message.result_blob = details.task.input_blob or "", details.result_blob or ""
    value = cast(dict[str, JsonValue], json.loads(details.input_json or "{}"))
    if details.task.input_blob is None and fits_struct(value) and _depth(value) <= _MAX_STRUCT_DEPTH:
        message.input.CopyFrom(json_to_struct(value))
    if details.result_json is not None:
        message.result_json = details.result_json
    message.child_count, message.open_child_count = details.child_count, details.open_child_count
    message.attempts.extend(_attempt(each, payloads=payloads) for each in details.attempts)
    message.input_requests.extend(_request(each) for each in details.open_inputs)
    if len(message.attempts) > _MAX_FULL_ATTEMPTS:
        for attempt in message.attempts:
            attempt.error.message = attempt.error.message[:_SHORT_MESSAGE]
        for attempt in message.attempts[:-_MAX_FULL_ATTEMPTS]:
            attempt.ClearField("progress")
    return message


def fitting(listed: Iterable[M]) -> list[M]:
    """As many of them, from the first, as fit one reply; at least one where there are any."""
    page: list[M] = []
    room = _MAX_PAGE_BYTES
    for message in listed:
        room -= message.ByteSize()
        if page and room < 0:
            break
        page.append(message)
    return page


def step_to_proto(step: records.Step, *, payloads: bool) -> task_pb2.Step:
    """A step, with input and output where they are asked for."""
    return task_pb2.Step(
        step_key=step.step_key,
        kind=_KINDS[step.kind],
        name=step.name,
        status=_STATUSES[step.status],
        ordinal=step.ordinal,
        call_id=str(step.call_id),
        input_digest=step.input_digest,
        input_json=step.input_json if payloads else "",
        output_json=(step.output_json or "") if payloads else "",
        error=_error(step.error),
        attempt=step.attempt,
        start_time=time_to_proto(step.start_time),
        end_time=time_to_proto(step.end_time),
    )


def event_to_proto(stored: records.StoredEvent) -> task_pb2.TaskEvent:
    """An event."""
    event = stored.event
    return task_pb2.TaskEvent(
        task_id=str(event.task_id),
        revision=event.revision,
        type=_EVENTS[event.type],
        state=_STATES[event.state],
        wait_reason=_reason(event.wait_reason),
        attempt=event.attempt,
        step=_mark(event.step, event.error, event.attempt) if event.step is not None else None,
        error=_error(event.error),
        time=time_to_proto(stored.time),
        input_kind=_input_kind(event.input_kind),
        usage=usage_to_proto(event.usage),
    )


def update_to_proto(update: Update, *, payloads: bool) -> orchestrator_service_pb2.WatchTaskResponse:
    """One message of a watch.

    Without `payloads` it withholds the words of agents, which may tell what went in and out of their steps.
    """
    if isinstance(update, UpToDate):
        bookmark = orchestrator_service_pb2.Bookmark(revision=update.revision)
        return orchestrator_service_pb2.WatchTaskResponse(bookmark=bookmark)
    if isinstance(update, records.StoredEvent):
        return orchestrator_service_pb2.WatchTaskResponse(event=event_to_proto(update))
    if isinstance(update, records.Progress):
        return orchestrator_service_pb2.WatchTaskResponse(progress=_progress(update, payloads=payloads))
    return orchestrator_service_pb2.WatchTaskResponse(snapshot=task_to_proto(update))


def list_update_to_proto(update: ListUpdate) -> orchestrator_service_pb2.WatchTasksResponse:
    """One message of a watch of many tasks."""
    answer = orchestrator_service_pb2.WatchTasksResponse(cursor=update.cursor)
    match update.content:
        case None:
            answer.bookmark.SetInParent()
        case ListPart(tasks=tasks, first=first, last=last):
            part = orchestrator_service_pb2.TaskListPart(
                tasks=map(task_to_proto, tasks), first=first, last=last
            )
            answer.snapshot.CopyFrom(part)
        case changes:
            answer.changes.changes.extend(map(_change, changes))
    return answer


def _change(change: Change) -> orchestrator_service_pb2.TaskChange:
    return orchestrator_service_pb2.TaskChange(
        event=event_to_proto(change.stored),
        entered=_entered(change) if change.entered else None,
        left=change.left,
    )


def _entered(change: Change) -> task_pb2.Task:
    """The task as it was at the event: of what may have changed since, only what the event tells."""
    task, event = change.task, change.stored.event
    return task_pb2.Task(
        task_id=str(task.task_id),
        agent=task.agent.name,
        agent_version=task.agent.version,
        task_type=task.task_type,
        state=_STATES[event.state],
        wait_reason=_reason(event.wait_reason),
        attempt=event.attempt,
        retry_count=max(0, event.attempt - 1),
        revision=event.revision,
        create_time=time_to_proto(task.create_time),
        submitter=task.submitter,
        retried_from=str(task.retried_from) if task.retried_from else "",
        labels=task.labels,
        isolation=str(task.agent.isolation),
        queue=task.placement.queue,
        pool=task.pool,
        priority=task.placement.priority,
        fairness_key=task.placement.fairness_key,
        concurrency_key=task.placement.concurrency_key,
        usage=usage_to_proto(event.usage),
    )


def explanation_to_proto(explained: Explanation) -> orchestrator_service_pb2.ExplainTaskResponse:
    """Why a task is where it is."""
    blockers = [
        orchestrator_service_pb2.Blocker(
            kind=_BLOCKERS[blocker.kind],
            message=blocker.message,
            limit=blocker.limit,
            used=blocker.used,
            until=time_to_proto(blocker.until),
        )
        for blocker in explained.blockers
    ]
    return orchestrator_service_pb2.ExplainTaskResponse(
        state=_STATES[explained.state],
        wait_reason=_reason(explained.wait_reason),
        position=min(explained.position, MOST),
        position_is_minimum=explained.position > MOST,
        blockers=blockers,
        estimate=orchestrator_service_pb2.StartEstimate(
            start_time=time_to_proto(explained.start_time), basis=explained.basis
        ),
    )


def _depth(value: JsonValue) -> int:
    """How deep a value is nested; it was parsed under a bound."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)


def _attempt(attempt: records.Attempt, *, payloads: bool) -> task_pb2.Attempt:
    said = attempt.progress
    return task_pb2.Attempt(
        attempt=attempt.attempt,
        worker=attempt.worker,
        start_time=time_to_proto(attempt.start_time),
        end_time=time_to_proto(attempt.end_time),
        outcome=str(attempt.outcome) if attempt.outcome else "",
        error=_error(attempt.error),
        progress=_progress(said, payloads=payloads) if said is not None else None,
    )


def _progress(said: records.Progress, *, payloads: bool) -> task_pb2.Progress:
    return task_pb2.Progress(
        attempt=said.attempt,
        number=said.number,
        message=said.message if payloads else "",
        done=said.done,
        time=time_to_proto(said.time),
    )


def _request(stored: records.StoredInput) -> task_pb2.InputRequest:
    request = stored.request
    if request is None:
        raise ValueError(f"input {stored.input_id} was never asked for")
    return task_pb2.InputRequest(
        input_id=request.input_id,
        kind=_INPUTS[request.kind],
        step_key=request.step_key,
        prompt=request.prompt,
        schema_json=request.schema_json,
        attempt=stored.attempt,
        request_time=time_to_proto(stored.request_time),
    )


def _mark(mark: records.StepMark, error: TaskError | None, attempt: int) -> task_pb2.Step:
    return task_pb2.Step(
        step_key=mark.step_key,
        kind=_KINDS[mark.kind],
        name=mark.name,
        status=_STATUSES[mark.status],
        ordinal=mark.ordinal,
        call_id=str(mark.call_id),
        input_digest=mark.input_digest,
        error=_error(error),
        attempt=attempt,
    )


def _policy(policy: RetryPolicy) -> agent_pb2.RetryPolicy:
    return agent_pb2.RetryPolicy(
        max_failures=policy.max_failures,
        initial_interval=duration_to_proto(policy.initial),
        maximum_interval=duration_to_proto(policy.maximum),
        coefficient=policy.coefficient,
        non_retryable_classes=policy.non_retryable,
    )


def duration_to_proto(seconds: float | None) -> Duration | None:
    """So many seconds, where they are given."""
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def usage_to_proto(usage: records.Usage | None) -> task_pb2.TaskUsage | None:
    """What model calls have used up."""
    if usage is None:
        return None
    return task_pb2.TaskUsage(
        model_calls=usage.model_calls,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_micros=usage.cost_micros,
    )


def _reason(reason: WaitReason | None) -> task_pb2.WaitReason.ValueType:
    return _REASONS[reason] if reason is not None else task_pb2.WAIT_REASON_UNSPECIFIED


def _input_kind(kind: InputKind | None) -> task_pb2.InputKind.ValueType:
    return _INPUTS[kind] if kind is not None else task_pb2.INPUT_KIND_UNSPECIFIED


def _error(error: TaskError | None) -> task_pb2.TaskError | None:
    if error is None:
        return None
    return task_pb2.TaskError(
        error_class=error.error_class,
        message=error.message,
        step_key=error.step_key,
        retryable=error.retryable,
        timeout_kind=(
            _TIMEOUTS[error.timeout] if error.timeout is not None else task_pb2.TIMEOUT_KIND_UNSPECIFIED
        ),
    )


def time_to_proto(time: datetime | None) -> Timestamp | None:
    """A time, where there is one."""
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def attempts_to_proto(found: Slice) -> orchestrator_service_pb2.WatchAttemptsResponse:
    """A slice of the feed of attempts."""
    return orchestrator_service_pb2.WatchAttemptsResponse(
        changes=[
            orchestrator_service_pb2.AttemptChange(
                tenant=change.tenant,
                task_id=str(change.task_id),
                attempt=change.attempt,
                standing=_STANDINGS[change.standing],
            )
            for change in found.changes
        ],
        up_to_date=found.up_to_date,
    )
