"""What one transaction does to a task, gathered in memory before it is written at once."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator_svc.lifecycle import Ending, Outcome, Status, TaskError
from orchestrator_svc.records import (
    ChildEnd,
    Event,
    EventType,
    InputRequest,
    LockedTask,
    NewTask,
    Session,
    Siblings,
    Step,
    StepInput,
    StepMark,
    StoredInput,
    Usage,
)


class AuditKind(StrEnum):
    """What the audit log is told; the outbox row points at the event, and the event at the task."""

    PROMPT = "PROMPT"
    STATE_CHANGE = "STATE_CHANGE"
    RESULT = "RESULT"
    ERROR = "ERROR"
    REFUSED_STEP = "REFUSED_STEP"
    OPERATION = "OPERATION"  # of a queue or a worker: no task stands behind it


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditNote:
    """One line for the audit log about one event; `facts` are short and say what the event does not."""

    kind: AuditKind
    task_id: uuid.UUID
    tenant: str
    revision: int
    actor: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class TaskChanges:
    """The changes of one call to one locked task; `task` is what it has become."""

    task: LockedTask
    events: list[Event] = field(default_factory=list)
    notes: list[AuditNote] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    started_by: Session | None = None
    ending: Ending | None = None
    result_json: str | None = None
    result_blob: str | None = None
    asked: InputRequest | None = None
    children: list[NewTask] = field(default_factory=list)
    awaited: tuple[uuid.UUID, ...] = ()  # child tasks, one of which has to end before the task goes on

    def move(self, status: Status, *, actor: str, outcome: str = "", error: TaskError | None = None) -> None:
        """The task goes to another state."""
        self.task = replace(self.task, status=status)
        self._event(EventType.STATE_CHANGED, error=error)
        self.note(AuditKind.STATE_CHANGE, actor=actor, **_outcome(outcome))

    def tell(self, status: Status, kind: EventType, *, actor: str, **facts: str) -> None:
        """Something else than the state has changed."""
        self.task = replace(self.task, status=status)
        self._event(kind)
        self.note(AuditKind.STATE_CHANGE, actor=actor, change=str(kind), **facts)

    def give_up(self, status: Status, *, actor: str) -> None:
        """A task on which no attempt works has failed."""
        self.move(status, actor=actor, error=status.error)
        self.note(AuditKind.ERROR, actor=actor)

    def start_attempt(self, status: Status, session: Session) -> None:
        """A worker has claimed the task."""
        self.started_by = session
        self.move(status, actor=session.subject)
        self.task = replace(self.task, session_id=session.session_id, last_outcome=None)

    def end_attempt(self, ending: Ending, *, actor: str) -> None:
        """The live attempt is over."""
        self.ending = ending
        self.move(ending.status, actor=actor, outcome=str(ending.outcome), error=ending.error)
        self.task = replace(self.task, session_id=None, last_outcome=ending.outcome)
        if ending.outcome is Outcome.COMPLETED:
            self.note(AuditKind.RESULT, actor=actor, **_outcome(ending.outcome))
        # What an attempt said that was to end is no failure.
        if ending.error is not None and ending.outcome not in (Outcome.CANCELED, Outcome.PAUSED):
            self.note(AuditKind.ERROR, actor=actor, **_outcome(ending.outcome))

    def put_step(self, step: Step, kind: EventType, *, usage: Usage | None = None) -> None:
        """A step began or ended, and used this up."""
        self.steps[step.step_key] = step
        self.task = replace(self.task, step_count=max(self.task.step_count, step.ordinal))
        if usage is not None:
            self.task = replace(self.task, usage=(self.task.usage or Usage()) + usage)
        self._event(kind, step=step, error=step.error)

    def refuse_step(self, asked: StepInput, *, call_id: uuid.UUID, reason: str, actor: str) -> None:
        """A step was refused before it began: it leaves no event, but the audit log hears of it."""
        self.note(
            AuditKind.REFUSED_STEP,
            actor=actor,
            step_key=asked.step_key,
            step_kind=asked.kind,
            tool=asked.name,
            call_id=str(call_id),
            argument_digest=asked.digest,
            reason=reason,
            time=self.task.now.isoformat(),
        )

    def note_child(self, step: Step, change: str, *, actor: str, **facts: str) -> None:
        """Tell the audit log what became of the child task of a step, which was put just now."""
        child = str(step.call_id)
        self.note(AuditKind.STATE_CHANGE, actor=actor, change=change, child_task_id=child, **facts)

    def note(self, kind: AuditKind, *, actor: str, **facts: str) -> None:
        """Tell the audit log about the last event."""
        self.notes.append(
            AuditNote(
                kind=kind,
                task_id=self.task.task_id,
                tenant=self.task.tenant,
                revision=self.task.revision,
                actor=actor,
                facts=facts,
            )
        )

    def _event(self, kind: EventType, *, step: Step | None = None, error: TaskError | None = None) -> None:
        self.task = replace(self.task, revision=self.task.revision + 1)
        status = self.task.status
        self.events.append(
            Event(
                task_id=self.task.task_id,
                tenant=self.task.tenant,
                revision=self.task.revision,
                type=kind,
                state=status.state,
                wait_reason=status.wait_reason,
                attempt=status.attempt,
                input_kind=status.input_kind,
                step=mark(step) if step is not None else None,
                error=error,
                usage=self.task.usage,
            )
        )


class Batch:
    """The changes of many calls in the order they came; several may be to the same task."""

    def __init__(
        self,
        tasks: Iterable[LockedTask],
        steps: Iterable[Step] = (),
        inputs: Iterable[StoredInput] = (),
        child_ends: Iterable[ChildEnd] = (),
        siblings: Mapping[uuid.UUID, Siblings] | None = None,
    ) -> None:
        self._tasks = {task.task_id: task for task in tasks}
        self._steps = {(step.task_id, step.step_key): step for step in steps}
        self._inputs = {(each.task_id, each.input_id): each for each in inputs}
        self._child_ends = {end.task_id: end for end in child_ends}
        self._siblings = dict(siblings or {})
        self.accepted: list[TaskChanges] = []

    @property
    def tasks(self) -> Mapping[uuid.UUID, LockedTask]:
        """Every task as it has become."""
        return self._tasks

    def step(self, task_id: uuid.UUID, step_key: str) -> Step | None:
        """A step as it has become."""
        return self._steps.get((task_id, step_key))

    def input(self, task_id: uuid.UUID, input_id: str) -> StoredInput | None:
        """What is known of a request for input."""
        return self._inputs.get((task_id, input_id))

    def child_end(self, task_id: uuid.UUID) -> ChildEnd | None:
        """How a child task has ended; None while it has not."""
        return self._child_ends.get(task_id)

    def siblings(self, task: LockedTask) -> Siblings:
        """What stands beside a child task that this task would submit."""
        return self._siblings.get(task.task_id, Siblings())

    def _count_child(self, parent: LockedTask) -> None:
        """One child more, in every count that it is in."""
        for task_id, counted in self._siblings.items():
            known = self._tasks.get(task_id)
            if known is not None and root_of(known) == root_of(parent):
                own = task_id == parent.task_id
                self._siblings[task_id] = Siblings(children=counted.children + own, tree=counted.tree + 1)

    def accept(self, changes: TaskChanges) -> None:
        """Take the changes of one call; what a refused call gathered is simply not accepted."""
        self._tasks[changes.task.task_id] = changes.task
        for step in changes.steps.values():
            self._steps[step.task_id, step.step_key] = step
        for _ in changes.children:
            self._count_child(changes.task)
        if changes.events or changes.notes:
            self.accepted.append(changes)


def root_of(task: LockedTask) -> uuid.UUID:
    """The task at the top of its tree."""
    return task.lineage.root or task.task_id


def _outcome(outcome: str) -> dict[str, str]:
    return {"outcome": str(outcome)} if outcome else {}


def mark(step: Step) -> StepMark:
    """What events tell of a step: no input, no output."""
    return StepMark(
        step_key=step.step_key,
        kind=step.kind,
        name=step.name,
        status=step.status,
        ordinal=step.ordinal,
        call_id=step.call_id,
        input_digest=step.input_digest,
    )
