"""What a worker writes for a live attempt: its steps, and how it ends. One commit serves all that wait."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import children, inputs, journal, lifecycle, metrics, uncertain
from orchestrator_svc.agents import AgentUnknownError, Bound
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import AuditKind, Batch, TaskChanges
from orchestrator_svc.children import ChildLimits, Prepared
from orchestrator_svc.errors import registry_unavailable, stale_attempt
from orchestrator_svc.failures import log_failures
from orchestrator_svc.lifecycle import Ending, InputKind, Outcome, TaskError, TaskState
from orchestrator_svc.records import (
    AgentPin,
    Answer,
    ChildEnd,
    EventType,
    InputRequest,
    LockedTask,
    Siblings,
    Step,
    StepInput,
    StepKind,
    StepStatus,
    StoredInput,
)
from orchestrator_svc.rights import HeldAttempt
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.errors import DomainError, PermissionDenied
from svc_kit.group_commit import GroupCommit, Observer
from svc_kit.strict_json import digest

_ROW_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The attempt ended with a result; that is empty where the digest of a blob stands for it."""

    result_json: str = field(repr=False)
    result_blob: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The attempt failed; `told` are the seconds that a server asked to wait."""

    error: TaskError
    told: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The worker gives the task back: it stops, or the task is to be paused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The attempt needs a person's answer: it goes on with it, or ends until it has come."""

    request: InputRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Await:
    """The attempt needs the outcome of a child task: it goes on with it, or ends until it is there."""

    step_keys: tuple[str, ...]


End = Completion | Failure | Release | Question | Await


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptWrite:
    """One call of a worker: finish a step, then begin the next or end the attempt."""

    held: HeldAttempt
    finish: journal.StepFinish | None = None
    begin: StepInput | None = None
    child: Prepared | None = None  # for a step that begins a child task
    end: End | None = None

    @property
    def size(self) -> int:
        """Roughly the bytes that storing it costs."""
        return (
            _ROW_BYTES
            + (len(self.finish.output_json or "") if self.finish else 0)
            + (len(self.begin.input_json) if self.begin else 0)
            + (len(self.end.result_json) if isinstance(self.end, Completion) else 0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of a write; `begun` may start with what is `bound`, `recorded` is to be taken as it is.

    `answer` is that to the question, `ended` the steps whose child tasks have ended; without it the attempt
    is over.
    """

    task: LockedTask
    begun: Step | None = None
    bound: Bound | None = None
    recorded: Step | None = None
    answer: Answer | None = None
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _AgentMissing:
    """Not written: the copy of the registry lacks the pinned agent version."""

    tenant: str
    pin: AgentPin


class AttemptStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, UUID]]
    ) -> list[LockedTask]: ...
    async def steps(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, UUID, str]]
    ) -> list[Step]: ...
    async def inputs(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, UUID, str]]
    ) -> list[StoredInput]: ...
    async def child_ends(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, UUID]]
    ) -> list[ChildEnd]: ...
    async def siblings(
        self, connection: AsyncConnection, parents: Sequence[LockedTask]
    ) -> dict[UUID, Siblings]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Bindings(Protocol):
    """Knows what an agent version is bound to."""

    def bound(self, tenant: str, pin: AgentPin, kind: StepKind, name: str) -> Bound: ...
    async def fetch(self, tenant: str, pin: AgentPin) -> None: ...


class Attempts:
    """Writes of live attempts; every other one is STALE_ATTEMPT."""

    def __init__(
        self,
        *,
        store: AttemptStore,
        bindings: Bindings,
        announcer: Announcer,
        observe: Observer | None = None,
        chance: Callable[[], float] = random.random,
        limits: ChildLimits | None = None,
    ) -> None:
        self._store = store
        self._bindings = bindings
        self._announcer = announcer
        self._chance = chance
        self._limits = limits or ChildLimits()
        self._lane: GroupCommit[AttemptWrite, Written | _AgentMissing] = GroupCommit(
            self._commit,
            size_of=lambda write: write.size,
            tenant_of=lambda write: write.held.ref.tenant,
            observe=observe,
        )

    async def write(self, write: AttemptWrite) -> Written:
        """Write in one commit, all of it or nothing; the same again changes nothing and answers the same.

        Raises STALE_ATTEMPT, NONDETERMINISM, STEP_NOT_FOUND, TASK_STATE, TOOL_NOT_BOUND or
        REGISTRY_UNAVAILABLE.
        """
        result = await self._lane.submit(write)
        if isinstance(result, _AgentMissing):
            await self._bindings.fetch(result.tenant, result.pin)
            result = await self._lane.submit(write)
        if isinstance(result, _AgentMissing):
            raise registry_unavailable()
        return result

    @undisturbed
    async def check_live(self, held: HeldAttempt) -> LockedTask:
        """The task, if the attempt is its live one."""
        async with self._store.transaction() as connection:
            found = await self._store.lock(connection, [(held.ref.tenant, held.ref.task_id)])
        return _live(found[0] if found else None, held)

    async def close(self) -> None:
        """Answer whoever waits and take nothing more."""
        await self._lane.close()

    async def _commit(
        self, writes: Sequence[AttemptWrite]
    ) -> Sequence[Written | _AgentMissing | DomainError]:
        results: list[Written | _AgentMissing | DomainError] = []
        async with self._store.transaction() as connection:
            tasks = await self._store.lock(
                connection, [(write.held.ref.tenant, write.held.ref.task_id) for write in writes]
            )
            batch = Batch(
                tasks,
                await self._store.steps(connection, _step_keys(writes)),
                await self._store.inputs(connection, _input_keys(writes)),
                await self._store.child_ends(connection, _awaited(writes)),
                await self._store.siblings(connection, _parents(tasks, writes)),
            )
            for write in writes:
                try:
                    results.append(self._apply(batch, write))
                except DomainError as error:
                    results.append(error)
            if batch.accepted:
                await self._store.write(connection, batch.accepted)
        if batch.accepted:
            metrics.count_finished(batch.accepted)
            log_failures(batch.accepted)
            self._announcer.committed(runnable=_runnable(batch.accepted))
            if any(children.concerned(changes) for changes in batch.accepted):
                self._announcer.family()
        return results

    def _apply(self, batch: Batch, write: AttemptWrite) -> Written | _AgentMissing:
        """Gather what one write changes; what it cannot do it raises, and then nothing of it is accepted."""
        found = batch.tasks.get(write.held.ref.task_id)
        if found is not None and _repeats(found, write):
            return Written(task=found)
        changes = TaskChanges(_live(found, write.held))
        if write.finish is not None:
            known = batch.step(changes.task.task_id, write.finish.step_key)
            finished = journal.finish(changes.task, known, write.finish)
            if finished is not None:
                changes.put_step(finished, EventType.STEP_FINISHED, usage=write.finish.usage)
        written = Written(task=changes.task)
        if write.begin is not None:
            try:
                written = self._begin(batch, changes, write)
            except AgentUnknownError:
                return _AgentMissing(tenant=changes.task.tenant, pin=changes.task.agent)
            except PermissionDenied as error:
                batch.accept(_refusal(batch.tasks[changes.task.task_id], write, error))
                raise
        answer, ended = _at_once(batch, changes, write.end, actor=write.held.subject)
        if answer is not None or ended:
            written = replace(written, answer=answer, ended=ended)
        elif write.end is not None:
            _bring(changes, write.end)
            changes.end_attempt(self._ending(changes.task, write.end), actor=write.held.subject)
        batch.accept(changes)
        return replace(written, task=changes.task)

    def _begin(self, batch: Batch, changes: TaskChanges, write: AttemptWrite) -> Written:
        task, asked = changes.task, write.begin
        if asked is None:
            return Written(task=task)
        known = changes.steps.get(asked.step_key) or batch.step(task.task_id, asked.step_key)
        outcome = journal.begin(task, known, asked)
        if isinstance(outcome, journal.Recorded):
            return Written(task=task, recorded=outcome.step)
        if asked.kind is StepKind.CHILD_TASK:
            if outcome.changed and write.child is not None:
                child = children.new_child(
                    task, outcome.step, write.child, siblings=batch.siblings(task), limits=self._limits
                )
                changes.put_step(outcome.step, EventType.STEP_STARTED)
                changes.note_child(outcome.step, "CHILD_TASK_STARTED", actor=write.held.subject)
                changes.children.append(child)
            return Written(task=task, begun=outcome.step)
        bound = self._bindings.bound(task.tenant, task.agent, asked.kind, asked.name)
        if outcome.changed:
            changes.put_step(outcome.step, EventType.STEP_STARTED)
        return Written(task=task, begun=outcome.step, bound=bound)

    def _ending(self, task: LockedTask, end: End) -> Ending:
        if isinstance(end, Completion):
            return lifecycle.complete(task.status)
        if isinstance(end, Release):
            return lifecycle.release(task.status, now=task.now)
        if isinstance(end, Question):
            return lifecycle.request_input(task.status, end.request.kind, now=task.now)
        if isinstance(end, Await):
            return lifecycle.await_children(task.status, now=task.now)
        return lifecycle.fail(
            task.status,
            end.error,
            policy=task.agent.retry,
            now=task.now,
            chance=self._chance(),
            told=end.told,
        )


def _live(task: LockedTask | None, held: HeldAttempt) -> LockedTask:
    if (
        task is None
        or not task.status.state.live
        or task.status.attempt != held.ref.attempt
        or task.session_id != held.session_id
    ):
        raise stale_attempt(held.ref.task_id, held.ref.attempt)
    return task


_REPEATED: Mapping[type[End], frozenset[Outcome]] = {
    Completion: frozenset({Outcome.COMPLETED}),
    Failure: frozenset({Outcome.FAILED, Outcome.CANCELED}),
    Release: frozenset({Outcome.RELEASED, Outcome.PAUSED, Outcome.CANCELED}),
    Question: frozenset({Outcome.PARKED, Outcome.CANCELED}),
    Await: frozenset({Outcome.PARKED, Outcome.CANCELED}),
}


def _repeats(task: LockedTask, write: AttemptWrite) -> bool:
    """Whether the attempt has ended already in the way that `write` wants to end it."""
    return (
        write.end is not None
        and task.status.attempt == write.held.ref.attempt
        and task.last_outcome in _REPEATED[type(write.end)]
    )


def _refusal(task: LockedTask, write: AttemptWrite, error: PermissionDenied) -> TaskChanges:
    """What stays of a write whose step the agent may not begin: a line in the audit log."""
    refused = TaskChanges(task)
    if write.begin is not None:
        refused.refuse_step(
            write.begin,
            call_id=journal.call_id(task.task_id, write.begin.step_key),
            reason=error.reason_name,
            actor=write.held.subject,
        )
    return refused


def _step_keys(writes: Sequence[AttemptWrite]) -> list[tuple[str, UUID, str]]:
    keys = {
        (write.held.ref.tenant, write.held.ref.task_id, part.step_key)
        for write in writes
        for part in (write.finish, write.begin, _asked(write.end))
        if part is not None and part.step_key
    } | {
        (write.held.ref.tenant, write.held.ref.task_id, step_key)
        for write in writes
        if isinstance(write.end, Await)
        for step_key in write.end.step_keys
    }
    return sorted(keys)


def _asked(end: End | None) -> InputRequest | None:
    return end.request if isinstance(end, Question) else None


def _input_keys(writes: Sequence[AttemptWrite]) -> list[tuple[str, UUID, str]]:
    keys = {
        (write.held.ref.tenant, write.held.ref.task_id, write.end.request.input_id)
        for write in writes
        if isinstance(write.end, Question)
    }
    return sorted(keys)


def _awaited(writes: Sequence[AttemptWrite]) -> list[tuple[str, UUID]]:
    return sorted(
        {
            (write.held.ref.tenant, journal.call_id(write.held.ref.task_id, step_key))
            for write in writes
            if isinstance(write.end, Await)
            for step_key in write.end.step_keys
        }
    )


def _parents(tasks: Sequence[LockedTask], writes: Sequence[AttemptWrite]) -> list[LockedTask]:
    asking = {write.held.ref.task_id for write in writes if write.child is not None}
    return [task for task in tasks if task.task_id in asking]


def _at_once(
    batch: Batch, changes: TaskChanges, end: End | None, *, actor: str
) -> tuple[Answer | None, tuple[str, ...]]:
    """What the attempt waits for and has already: then it goes on."""
    if isinstance(end, Await):
        return None, children.settle(batch, changes, end.step_keys, actor=actor)
    answer = _answer(batch, changes.task, end)
    if answer is not None and isinstance(end, Question):
        _settle(batch, changes, end.request, answer)
    return answer, ()


def _answer(batch: Batch, task: LockedTask, end: End | None) -> Answer | None:
    """The answer that a question has already."""
    if not isinstance(end, Question):
        return None
    known = batch.input(task.task_id, end.request.input_id)
    return known.answer if known and inputs.counts(known, end.request) else None


def _bring(changes: TaskChanges, end: End) -> None:
    """What an end leaves behind, beside the state."""
    match end:
        case Completion():
            changes.result_blob = end.result_blob
            changes.result_json = None if end.result_blob else end.result_json
        case Question():
            changes.asked = end.request
        case Await():
            changes.awaited = children.awaited(changes.task, end.step_keys)


def _settle(batch: Batch, changes: TaskChanges, asked: InputRequest, answer: Answer) -> None:
    """What a person said of a step whose outcome nobody knows goes into the journal."""
    if asked.kind is not InputKind.UNCERTAIN_STEP:
        return
    step = batch.step(changes.task.task_id, asked.step_key)
    settled = uncertain.settle(step, asked.input_id, answer, changes.task.status.attempt)
    if settled is None:
        return
    step, decision = settled
    over = step.status is not StepStatus.STARTED
    changes.put_step(step, EventType.STEP_FINISHED if over else EventType.STEP_STARTED)
    facts = {"change": "STEP_SETTLED", "input_id": asked.input_id, "decision": str(decision)}
    if step.output_json is not None:
        facts["output_digest"] = digest(step.output_json.encode())
    changes.note(AuditKind.STATE_CHANGE, actor=answer.subject, **facts)


def _runnable(accepted: Sequence[TaskChanges]) -> Counter[str]:
    """By pool, the tasks that may run again at once; those in a back-off are the sweep's business."""
    return Counter(
        changes.task.pool
        for changes in accepted
        if changes.task.status.state is TaskState.SUBMITTED
        and changes.task.status.run_after <= changes.task.now
    )
