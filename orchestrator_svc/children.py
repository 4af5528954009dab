"""The rules of child tasks: what an agent may hand on, for whom it is done, and how it comes back. Pure."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator_svc.agents import ChosenAgent
from orchestrator_svc.changes import Batch, TaskChanges, root_of
from orchestrator_svc.errors import child_too_deep, step_not_found, too_many_children
from orchestrator_svc.journal import call_id
from orchestrator_svc.lifecycle import TaskError, TaskState, WaitReason
from orchestrator_svc.records import (
    ChildEnd,
    ClosePolicy,
    EventType,
    Lineage,
    LockedTask,
    NewTask,
    Siblings,
    Step,
    StepKind,
    StepStatus,
    Submitter,
)
from svc_kit.errors import DomainError

CHILD_RESULT_TOO_LARGE = "CHILD_RESULT_TOO_LARGE"
CHILD_CANCELED = "CHILD_CANCELED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildRequest:
    """What else than agent and input a child task is given."""

    agent_version: str  # empty = the newest
    task_type: str
    labels: Mapping[str, str]
    close_policy: ClosePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A child task before the journal was asked: the agent, or why there can be none.

    The world may have changed since an earlier attempt began the step; what that began stands all the same.
    """

    asked: ChildRequest
    chosen: ChosenAgent | DomainError


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildLimits:
    """How deep below their root tasks may stand, and how many a task and a tree may submit."""

    depth: int = 5
    children: int = 100
    tree: int = 1000


def new_child(
    parent: LockedTask, step: Step, prepared: Prepared, *, siblings: Siblings, limits: ChildLimits
) -> NewTask:
    """The child task that a step begins.

    Raises CHILD_TOO_DEEP, TOO_MANY_CHILDREN, or what choosing its agent has met.
    """
    depth = parent.lineage.depth + 1
    if depth > limits.depth:
        raise child_too_deep(depth, limits.depth)
    if siblings.children >= limits.children:
        raise too_many_children("parent", limits.children)
    if siblings.tree >= limits.tree:
        raise too_many_children("root", limits.tree)
    if isinstance(prepared.chosen, DomainError):
        raise prepared.chosen
    return NewTask(
        task_id=step.call_id,
        tenant=parent.tenant,
        agent=prepared.chosen.pin,
        task_type=prepared.asked.task_type,
        input_json=step.input_json,
        labels=prepared.asked.labels,
        submitters=(_as_submitter(parent), *parent.submitters),
        traceparent=parent.traceparent,
        lineage=Lineage(
            parent=parent.task_id,
            root=root_of(parent),
            depth=depth,
            close_policy=prepared.asked.close_policy,
        ),
    )


def settle(batch: Batch, changes: TaskChanges, step_keys: Sequence[str], *, actor: str) -> tuple[str, ...]:
    """Finish the steps of those child tasks that have ended; the keys of all that have their outcome.

    Raises STEP_NOT_FOUND for a key under which no child task was begun.
    """
    task_id = changes.task.task_id
    ended = []
    for step_key in step_keys:
        step = batch.step(task_id, step_key)
        if step is None or step.kind is not StepKind.CHILD_TASK:
            raise step_not_found(task_id, step_key, "is not a child task")
        end = batch.child_end(step.call_id)
        if not step.status.final and end is not None:
            changes.put_step(_finished(step, end), EventType.STEP_FINISHED)
            changes.note_child(step, "CHILD_TASK_ENDED", actor=actor, child_state=str(end.state))
        if step.status.final or end is not None:
            ended.append(step_key)
    return tuple(ended)


def awaited(task: LockedTask, step_keys: Sequence[str]) -> tuple[uuid.UUID, ...]:
    """The ids of the child tasks that these steps began."""
    return tuple(call_id(task.task_id, step_key) for step_key in step_keys)


def concerned(changes: TaskChanges) -> bool:
    """Whether a parent may have to go on now: a child has ended, or a task waits for one that may have."""
    status = changes.task.status
    over = status.state.terminal and changes.task.lineage.parent is not None
    return over or status.wait_reason is WaitReason.CHILDREN


def _finished(step: Step, end: ChildEnd) -> Step:
    if end.state is TaskState.COMPLETED and end.result_json is None:
        # Step outputs are no blobs: fail in words rather than answer with nothing.
        error = TaskError(
            error_class=CHILD_RESULT_TOO_LARGE,
            message=f"the result of child task {end.task_id} is over 256 KiB; its blob holds it",
            step_key=step.step_key,
        )
        return replace(step, status=StepStatus.FAILED, error=error)
    if end.state is TaskState.COMPLETED:
        return replace(step, status=StepStatus.COMPLETED, output_json=end.result_json, error=None)
    error = end.error or TaskError(error_class=CHILD_CANCELED, message="the child task was canceled")
    if end.state is TaskState.CANCELED:
        error = replace(error, error_class=CHILD_CANCELED)
    return replace(step, status=StepStatus.FAILED, error=replace(error, step_key=step.step_key))


def _as_submitter(parent: LockedTask) -> Submitter:
    """An agent has no roles: whatever policies ask about roles, they ask about whoever is at the top."""
    return Submitter(
        tenant=parent.tenant,
        subject=f"agent:{parent.agent.name}",
        roles=(),
        agent=parent.agent.name,
        agent_version=parent.agent.version,
    )
