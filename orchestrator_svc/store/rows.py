"""Rows to records and back."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row

from orchestrator_svc.lifecycle import (
    InputKind,
    Outcome,
    Status,
    TaskError,
    TaskState,
    Timeout,
    WaitReason,
)
from orchestrator_svc.placement import Placement
from orchestrator_svc.records import (
    AgentPin,
    Answer,
    Attempt,
    ClosePolicy,
    Event,
    EventType,
    InputRequest,
    Isolation,
    Lineage,
    LockedTask,
    Occurrence,
    Progress,
    Step,
    StepKind,
    StepMark,
    StepStatus,
    StoredEvent,
    StoredInput,
    Submitter,
    Task,
    Timeouts,
    Usage,
)
from orchestrator_svc.retry import RetryPolicy

AnyRow = Row[*tuple[Any, ...]]

_MOVING = (
    "task.state, task.wait_reason, task.input_kind, task.run_after, task.attempt, task.failures,"
    " task.crashes, task.losses, task.suspect, task.pausing, task.dead_lettered, task.start_by, task.expires,"
    " task.left_seconds, task.wind_up_by, task.error, task.parent_task_id, task.root_task_id, task.depth,"
    " task.close_policy, task.usage"
)
# What `to_locked` reads; the statement adds `now`.
LOCKED_COLUMNS = (
    "task.task_id, task.tenant, task.pool, task.agent, task.agent_version, task.agent_digest, task.isolation,"
    " task.retry, task.start_to_close, task.schedule_to_start, task.schedule_to_close, task.submitters,"
    " task.traceparent, task.revision, task.step_count, task.session_id, task.last_outcome, task.close_by,"
    f" {_MOVING}"
)
# What `to_task` reads.
TASK_COLUMNS = (
    "task.task_id, task.tenant, task.agent, task.agent_version, task.agent_digest, task.isolation,"
    " task.retry, task.start_to_close, task.schedule_to_start, task.schedule_to_close, task.task_type,"
    " task.labels, task.submitters, task.retried_from, task.from_step, task.revision, task.create_time,"
    " task.start_time, task.end_time, task.pool, task.queue, task.priority, task.fairness_key,"
    f" task.concurrency_key, task.input_blob, task.erase_time,"
    f" {_MOVING}"
)


def to_task(row: AnyRow) -> Task:
    """From a row with TASK_COLUMNS."""
    return Task(
        task_id=row.task_id,
        tenant=row.tenant,
        agent=_pin(row),
        task_type=row.task_type,
        labels=row.labels,
        submitters=_submitters(row.submitters),
        retried_from=row.retried_from,
        status=_status(row),
        revision=row.revision,
        create_time=row.create_time,
        start_time=row.start_time,
        end_time=row.end_time,
        timeouts=_timeouts(row),
        placement=Placement(
            queue=row.queue,
            priority=row.priority,
            fairness_key=row.fairness_key,
            concurrency_key=row.concurrency_key,
        ),
        pool=row.pool,
        from_step=row.from_step or "",
        lineage=_lineage(row),
        input_blob=row.input_blob,
        usage=_usage(row.usage),
        erase_time=row.erase_time,
    )


def to_locked(row: AnyRow) -> LockedTask:
    """From a row with LOCKED_COLUMNS and `now`."""
    return LockedTask(
        task_id=row.task_id,
        tenant=row.tenant,
        pool=row.pool,
        agent=_pin(row),
        submitters=_submitters(row.submitters),
        traceparent=row.traceparent,
        status=_status(row),
        revision=row.revision,
        step_count=row.step_count,
        session_id=row.session_id,
        last_outcome=Outcome(row.last_outcome) if row.last_outcome else None,
        timeouts=_timeouts(row),
        lineage=_lineage(row),
        close_by=row.close_by,
        usage=_usage(row.usage),
        now=row.now,
    )


def to_attempt(row: AnyRow) -> Attempt:
    """From a row of `attempt`."""
    return Attempt(
        attempt=row.attempt,
        worker=row.worker,
        start_time=row.start_time,
        end_time=row.end_time,
        outcome=Outcome(row.outcome) if row.outcome else None,
        error=to_error(row.error),
        progress=to_progress(row),
    )


def to_progress(row: AnyRow) -> Progress | None:
    """From a row with attempt, progress and progress_time."""
    if row.progress is None:
        return None
    return Progress(attempt=row.attempt, time=row.progress_time, **row.progress)


def to_step(row: AnyRow) -> Step:
    """From a row of `task_step`."""
    return Step(
        task_id=row.task_id,
        step_key=row.step_key,
        kind=StepKind(row.kind),
        name=row.name,
        status=StepStatus(row.status),
        ordinal=row.ordinal,
        call_id=row.call_id,
        input_digest=row.input_digest,
        input_json=row.input,
        output_json=row.output,
        error=to_error(row.error),
        attempt=row.attempt,
        start_time=row.start_time,
        end_time=row.end_time,
    )


def to_input(row: AnyRow) -> StoredInput:
    """From a row of `task_input`."""
    request = (
        InputRequest(
            input_id=row.input_id,
            kind=InputKind(row.kind),
            step_key=row.step_key,
            prompt=row.prompt,
            schema_json=row.schema,
        )
        if row.kind is not None
        else None
    )
    return StoredInput(
        task_id=row.task_id,
        input_id=row.input_id,
        request=request,
        answer=Answer(json=row.answer, subject=row.answered_by, decided=row.decided)
        if row.answer is not None
        else None,
        attempt=row.attempt,
        request_time=row.request_time,
    )


def to_event(row: AnyRow) -> StoredEvent:
    """From a row of `task_event`."""
    detail = row.detail or {}
    step, kind = detail.get("step"), detail.get("input_kind")
    event = Event(
        task_id=row.task_id,
        tenant=row.tenant,
        revision=row.revision,
        type=EventType(row.type),
        state=TaskState(row.state),
        wait_reason=WaitReason(row.wait_reason) if row.wait_reason else None,
        attempt=row.attempt,
        input_kind=InputKind(kind) if kind else None,
        step=StepMark(
            step_key=step["key"],
            kind=StepKind(step["kind"]),
            name=step["name"],
            status=StepStatus(step["status"]),
            ordinal=step["ordinal"],
            call_id=uuid.UUID(step["call_id"]),
            input_digest=step["digest"],
        )
        if step is not None
        else None,
        error=to_error(detail.get("error")),
        usage=_usage(detail.get("usage")),
    )
    return StoredEvent(event=event, position=row.position, time=row.time)


def to_occurrence(row: AnyRow) -> Occurrence:
    """From a row of `task_event` with `was`."""
    return Occurrence(stored=to_event(row), was=TaskState(row.was) if row.was else None)


def detail_json(event: Event) -> str | None:
    """What `task_event.detail` holds of an event."""
    detail: dict[str, Any] = {}
    if event.step is not None:
        detail["step"] = {
            "key": event.step.step_key,
            "kind": str(event.step.kind),
            "name": event.step.name,
            "status": str(event.step.status),
            "ordinal": event.step.ordinal,
            "call_id": str(event.step.call_id),
            "digest": event.step.input_digest,
        }
    if event.error is not None:
        detail["error"] = _error(event.error)
    if event.input_kind is not None:
        detail["input_kind"] = str(event.input_kind)
    if event.usage is not None:
        detail["usage"] = asdict(event.usage)
    return json.dumps(detail) if detail else None


def to_error(value: Mapping[str, Any] | None) -> TaskError | None:
    """From an `error` column."""
    if value is None:
        return None
    return TaskError(
        error_class=value["class"],
        message=value["message"],
        step_key=value.get("step_key", ""),
        retryable=value.get("retryable", False),
        timeout=Timeout(value["timeout"]) if value.get("timeout") else None,
    )


def error_json(error: TaskError | None) -> str | None:
    """For an `error` column."""
    return json.dumps(_error(error)) if error is not None else None


def usage_json(usage: Usage | None) -> str | None:
    """For `task.usage`."""
    return json.dumps(asdict(usage)) if usage is not None else None


def retry_json(policy: RetryPolicy) -> str:
    """For `task.retry`."""
    return json.dumps(
        {
            "max_failures": policy.max_failures,
            "initial": policy.initial,
            "maximum": policy.maximum,
            "coefficient": policy.coefficient,
            "non_retryable": list(policy.non_retryable),
        }
    )


def submitters_json(submitters: Sequence[Submitter]) -> str:
    """For `task.submitters`."""
    return json.dumps(
        [
            {"tenant": each.tenant, "subject": each.subject, "roles": list(each.roles)}
            | ({"agent": each.agent, "agent_version": each.agent_version} if each.agent else {})
            for each in submitters
        ]
    )


def _error(error: TaskError) -> dict[str, Any]:
    written: dict[str, Any] = {
        "class": error.error_class,
        "message": error.message,
        "step_key": error.step_key,
        "retryable": error.retryable,
    }
    return written | {"timeout": str(error.timeout)} if error.timeout is not None else written


def _status(row: AnyRow) -> Status:
    return Status(
        state=TaskState(row.state),
        wait_reason=WaitReason(row.wait_reason) if row.wait_reason else None,
        input_kind=InputKind(row.input_kind) if row.input_kind else None,
        run_after=row.run_after,
        attempt=row.attempt,
        failures=row.failures,
        crashes=row.crashes,
        losses=row.losses,
        suspect=row.suspect,
        pausing=row.pausing,
        dead_lettered=row.dead_lettered,
        start_by=row.start_by,
        expires=row.expires,
        left=row.left_seconds,
        wind_up_by=row.wind_up_by,
        error=to_error(row.error),
    )


def _usage(value: Mapping[str, int] | None) -> Usage | None:
    return Usage(**value) if value is not None else None


def _lineage(row: AnyRow) -> Lineage:
    return Lineage(
        parent=row.parent_task_id,
        root=row.root_task_id,
        depth=row.depth,
        close_policy=ClosePolicy(row.close_policy) if row.close_policy else None,
    )


def _timeouts(row: AnyRow) -> Timeouts:
    return Timeouts(schedule_to_start=row.schedule_to_start, schedule_to_close=row.schedule_to_close)


def _pin(row: AnyRow) -> AgentPin:
    policy = row.retry
    return AgentPin(
        name=row.agent,
        version=row.agent_version,
        digest=row.agent_digest,
        isolation=Isolation(row.isolation),
        retry=RetryPolicy(
            max_failures=policy["max_failures"],
            initial=policy["initial"],
            maximum=policy["maximum"],
            coefficient=policy["coefficient"],
            non_retryable=tuple(policy["non_retryable"]),
        ),
        start_to_close=row.start_to_close,
    )


def _submitters(value: Sequence[Mapping[str, Any]]) -> tuple[Submitter, ...]:
    return tuple(
        Submitter(
            tenant=each["tenant"],
            subject=each["subject"],
            roles=tuple(each["roles"]),
            agent=each.get("agent", ""),
            agent_version=each.get("agent_version", ""),
        )
        for each in value
    )
