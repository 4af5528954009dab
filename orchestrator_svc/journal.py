"""The step journal's rules: what begins, what is replayed, what is refused. Pure."""

import uuid
from dataclasses import dataclass, field, replace

from orchestrator_svc.errors import nondeterminism, receipt_mismatch, step_not_found, task_state
from orchestrator_svc.lifecycle import TaskError, TaskState
from orchestrator_svc.records import LockedTask, Step, StepInput, StepKind, StepStatus, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinish:
    """How a step ended.

    `argument_digest` and `call_id` are what the gateway's verified receipt names; empty for a refused call,
    which has none. `usage` is that of a model call, by its receipt.
    """

    step_key: str
    status: StepStatus
    output_json: str | None = field(default=None, repr=False)
    error: TaskError | None = None
    argument_digest: str = ""
    call_id: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A step that may start; `changed` is False when this attempt had begun it already."""

    step: Step
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A step whose stored outcome is to be taken."""

    step: Step


def call_id(task_id: uuid.UUID, step_key: str) -> uuid.UUID:
    """The id of the step's call: the same in every attempt, until a person has a lost call done again."""
    return uuid.uuid5(task_id, step_key)


def begin(task: LockedTask, known: Step | None, asked: StepInput) -> Begun | Recorded:
    """What becomes of a step that the live attempt wants to begin; `known` is the journal's form of it."""
    if task.status.state is not TaskState.RUNNING:
        raise task_state(task.task_id, task.status.state, "no step may begin")
    attempt = task.status.attempt
    if known is None:
        return Begun(step=_new(task, asked), changed=True)
    if (known.kind, known.name, known.input_digest) != (asked.kind, asked.name, asked.digest):
        raise nondeterminism(
            asked.step_key,
            f"was begun as {known.name} with input {known.input_digest}; now it is"
            f" {asked.name} with {asked.digest}",
        )
    if known.status.final or (known.status is StepStatus.REFUSED and known.attempt == attempt):
        return Recorded(step=known)
    # A child task goes on, whatever becomes of the attempt that began it.
    if known.attempt == attempt or known.kind is StepKind.CHILD_TASK:
        return Begun(step=known, changed=False)
    again = replace(known, status=StepStatus.STARTED, attempt=attempt, error=None, end_time=None)
    return Begun(step=again, changed=True)


def finish(task: LockedTask, known: Step | None, finished: StepFinish) -> Step | None:
    """The finished step, or None when the journal holds this very outcome already."""
    key = finished.step_key
    if known is None or known.attempt != task.status.attempt or known.kind is StepKind.CHILD_TASK:
        raise step_not_found(task.task_id, key, f"was not begun by attempt {task.status.attempt}")
    if finished.argument_digest and finished.argument_digest != known.input_digest:
        raise receipt_mismatch("is for a call with other arguments")
    if finished.call_id and finished.call_id != str(known.call_id):
        raise receipt_mismatch("is for another call id")
    outcome = (finished.status, finished.output_json, finished.error)
    if known.status is StepStatus.STARTED:
        return replace(known, status=finished.status, output_json=finished.output_json, error=finished.error)
    if (known.status, known.output_json, known.error) != outcome:
        raise nondeterminism(key, f"has ended already, as {known.status} with another outcome")
    return None


def _new(task: LockedTask, asked: StepInput) -> Step:
    return Step(
        task_id=task.task_id,
        step_key=asked.step_key,
        kind=asked.kind,
        name=asked.name,
        status=StepStatus.STARTED,
        ordinal=task.step_count + 1,
        call_id=call_id(task.task_id, asked.step_key),
        input_digest=asked.digest,
        input_json=asked.input_json,
        attempt=task.status.attempt,
    )
