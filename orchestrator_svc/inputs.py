"""What a person tells a task that has asked."""

import json
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import (
    approval_forbidden,
    input_already_provided,
    task_not_found,
    task_state,
)
from orchestrator_svc.lifecycle import InputKind, TaskState
from orchestrator_svc.records import Answer, EventType, InputRequest, LockedTask, StoredInput, Task
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.errors import Violation, invalid
from svc_kit.json_schema import SchemaCache

# Answers may come before their question, but nobody shall fill the table with them.
MAX_UNASKED = 32

_schemas = SchemaCache(size=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """A checked answer; `decides` says that the caller may answer approvals: it is the gateway."""

    tenant: str
    task_id: uuid.UUID
    input_id: str  # empty = what the task waits for
    json: str = field(repr=False)
    subject: str
    decides: bool


class InputStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]]
    ) -> list[LockedTask]: ...
    async def of_task(
        self, connection: AsyncConnection, tenant: str, task_id: uuid.UUID, input_id: str
    ) -> list[StoredInput]: ...
    async def unasked(self, connection: AsyncConnection, task_id: uuid.UUID) -> int: ...
    async def answer(
        self, connection: AsyncConnection, tenant: str, task_id: uuid.UUID, input_id: str, answer: Answer
    ) -> None: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class TaskReader(Protocol):
    """Reads single tasks."""

    async def find(self, tenant: str, task_id: uuid.UUID) -> Task | None: ...


class Inputs:
    """Keeps answers, and lets the tasks that wait for them go on."""

    def __init__(self, *, store: InputStore, tasks: TaskReader, announcer: Announcer) -> None:
        self._store = store
        self._tasks = tasks
        self._announcer = announcer

    @undisturbed
    async def provide(self, given: Provision) -> Task:
        """The task after the answer; raises what the contract says of ProvideInput."""
        async with self._store.transaction() as connection:
            locked = await self._store.lock(connection, [(given.tenant, given.task_id)])
            if not locked:
                raise task_not_found(given.task_id)
            known = await self._store.of_task(connection, given.tenant, given.task_id, given.input_id)
            input_id, stored = _meant(locked[0], known, given)
            changes = TaskChanges(locked[0])
            answer = Answer(json=given.json, subject=given.subject, decided=given.decides)
            if stored is None or stored.answer is None or _overrules(stored, stored.answer, answer):
                _check(locked[0], stored, given)
                if (
                    stored is None
                    and not given.decides
                    and await self._store.unasked(connection, given.task_id) >= MAX_UNASKED
                ):
                    raise invalid([Violation("input_id", "too many answers wait for their question")])
                await self._store.answer(connection, given.tenant, given.task_id, input_id, answer)
                _accept(changes, stored, input_id, given.subject)
                await self._store.write(connection, [changes])
            elif stored.answer.json != given.json:
                raise input_already_provided(given.task_id, input_id)
        if changes.events:
            goes_on = changes.task.status.state is TaskState.SUBMITTED
            self._announcer.committed(runnable={changes.task.pool: 1} if goes_on else {})
        found = await self._tasks.find(given.tenant, given.task_id)
        if found is None:
            raise task_not_found(given.task_id)
        return found


def counts(known: StoredInput, asked: InputRequest) -> bool:
    """Whether what is known of a question's id is an answer to this very question.

    An answer without a request came first. It serves any question that it fits, save an approval: there only
    a decision counts, and one that was given to a request counts for the same request alone.
    """
    if known.answer is None:
        return False
    if asked.kind is InputKind.APPROVAL and not known.answer.decided:
        return False
    if known.request is not None and not _same(known.request, asked):
        return False
    return not violations(asked, known.answer)


def _same(one: InputRequest, other: InputRequest) -> bool:
    """Whether two requests of one id ask the same thing; only an approval must read the same as well."""
    return one == other if other.kind is InputKind.APPROVAL else one.kind is other.kind


def _overrules(stored: StoredInput, before: Answer, answer: Answer) -> bool:
    """Whether the answer is a decision, and what came before it was said by anybody of what nobody asked."""
    return stored.request is None and answer.decided and not before.decided


def violations(request: InputRequest, answer: Answer) -> list[Violation]:
    """Everything about the answer that does not fit the question; the schema is known to compile."""
    if not request.schema_json:
        return []
    schema = _schemas.get(sha256(request.schema_json.encode()).hexdigest(), request.schema_json)
    return [
        Violation("answer_json", f"at {each.field}: {each.message}" if each.field else each.message, "SCHEMA")
        for each in schema.violations(json.loads(answer.json))
    ]


def _meant(
    task: LockedTask, known: Sequence[StoredInput], given: Provision
) -> tuple[str, StoredInput | None]:
    """The request that is answered: the one named, or the one that the task waits for."""
    if given.input_id:
        return given.input_id, known[0] if known else None
    waiting = [each for each in known if _waits_for(task, each)]
    if not waiting:
        raise task_state(task.task_id, task.status.state, "it waits for no input; name one by input_id")
    return waiting[0].input_id, waiting[0]


def _waits_for(task: LockedTask, stored: StoredInput) -> bool:
    """Whether the task is parked for this very request: an attempt that is parked has asked just once."""
    return (
        task.status.state is TaskState.INPUT_REQUIRED
        and stored.request is not None
        and stored.answer is None
        and stored.attempt == task.status.attempt
    )


def _check(task: LockedTask, stored: StoredInput | None, given: Provision) -> None:
    if task.status.state.terminal:
        raise task_state(task.task_id, task.status.state, "it takes no input any more")
    if stored is None or stored.request is None:
        return
    if stored.request.kind is InputKind.APPROVAL:
        if not given.decides:
            raise approval_forbidden(task.task_id, stored.input_id)
        if not given.input_id:
            raise invalid([Violation("input_id", "a decision must name the approval that it is about")])
    found = violations(stored.request, Answer(json=given.json, subject=given.subject))
    if found:
        raise invalid(found)


def _accept(changes: TaskChanges, stored: StoredInput | None, input_id: str, actor: str) -> None:
    status = changes.task.status
    changes.tell(status, EventType.INPUT_PROVIDED, actor=actor, input_id=input_id)
    if stored is not None and _waits_for(changes.task, stored):
        changes.move(lifecycle.provide_input(status, now=changes.task.now), actor=actor)
