"""Reading tasks, ending them, and making them stand still."""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import blob_not_found, step_not_found, task_not_found, task_state
from orchestrator_svc.lifecycle import IllegalMoveError, TaskState
from orchestrator_svc.records import EventType, LockedTask, Place, Step, StepStatus, Task, TaskDetails
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.filters import Condition, Operator


class TaskStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def find(self, tenant: str, task_id: uuid.UUID) -> Task | None: ...
    async def details(self, tenant: str, task_id: uuid.UUID) -> TaskDetails | None: ...
    async def page(
        self,
        tenant: str,
        conditions: Sequence[Condition],
        *,
        after: Place | None,
        limit: int,
    ) -> list[Task]: ...
    async def count(self, tenant: str, conditions: Sequence[Condition], *, limit: int) -> int: ...
    async def steps(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> list[Step]: ...
    async def step(self, tenant: str, task_id: uuid.UUID, step_key: str) -> Step | None: ...


class LockStore(Protocol):
    """Locks and writes; the store says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]]
    ) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Tasks:
    """Tasks of one tenant at a time, as people see them."""

    def __init__(
        self, *, store: TaskStore, locks: LockStore, announcer: Announcer, grace: float = 10.0
    ) -> None:
        self._store = store
        self._locks = locks
        self._announcer = announcer
        self._grace = grace  # seconds in which an attempt has to wind up

    async def get(self, tenant: str, task_id: uuid.UUID) -> TaskDetails:
        """The task with input, result and attempts; raises TASK_NOT_FOUND."""
        found = await self._store.details(tenant, task_id)
        if found is None:
            raise task_not_found(task_id)
        return found

    async def page(
        self, tenant: str, conditions: Sequence[Condition], *, after: Place | None, limit: int
    ) -> list[Task]:
        """Tasks that meet the conditions, newest first, after a place."""
        return await self._store.page(tenant, conditions, after=after, limit=limit)

    async def children(
        self, tenant: str, task_id: uuid.UUID, *, after: Place | None, limit: int
    ) -> list[Task]:
        """The tasks that a task has submitted, newest first, after a place; raises TASK_NOT_FOUND."""
        children = Condition("parent_task_id", Operator.EQUAL, task_id)
        found = await self._store.page(tenant, [children], after=after, limit=limit)
        if not found and await self._store.find(tenant, task_id) is None:
            raise task_not_found(task_id)
        return found

    async def count(self, tenant: str, conditions: Sequence[Condition], *, limit: int) -> int:
        """How many tasks meet the conditions; counts no further than `limit`."""
        return await self._store.count(tenant, conditions, limit=limit)

    async def steps(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> list[Step]:
        """Steps in the order in which they began, after an ordinal; raises TASK_NOT_FOUND."""
        found = await self._store.steps(tenant, task_id, after=after, limit=limit)
        if not found and await self._store.find(tenant, task_id) is None:
            raise task_not_found(task_id)
        return found

    async def input_blob(self, tenant: str, task_id: uuid.UUID) -> str:
        """The digest of the task's input; BLOB_NOT_FOUND when that is no blob."""
        found = await self._store.find(tenant, task_id)
        if found is None or found.input_blob is None:
            raise blob_not_found("")
        return found.input_blob

    async def finished_step(self, tenant: str, task_id: uuid.UUID, step_key: str) -> Step:
        """One step that has an outcome; raises STEP_NOT_FOUND."""
        found = await self._store.step(tenant, task_id, step_key)
        if found is None or found.status is StepStatus.STARTED:
            raise step_not_found(task_id, step_key, "has no stored outcome")
        return found

    async def cancel(self, tenant: str, task_id: uuid.UUID, *, actor: str) -> Task:
        """The task after the request; raises TASK_NOT_FOUND, or TASK_STATE when it has ended otherwise."""
        return await self._change(tenant, task_id, self._cancel, actor)

    async def pause(self, tenant: str, task_id: uuid.UUID, *, actor: str) -> Task:
        """The task after the request; raises TASK_NOT_FOUND, or TASK_STATE when it is ending or over."""
        return await self._change(tenant, task_id, self._pause, actor)

    async def resume(self, tenant: str, task_id: uuid.UUID, *, actor: str) -> Task:
        """The task after the request; raises TASK_NOT_FOUND, or TASK_STATE where it cannot just go on."""
        return await self._change(tenant, task_id, self._resume, actor)

    @undisturbed
    async def _change(
        self, tenant: str, task_id: uuid.UUID, change: Callable[[TaskChanges, str], None], actor: str
    ) -> Task:
        async with self._locks.transaction() as connection:
            locked = await self._locks.lock(connection, [(tenant, task_id)])
            if not locked:
                raise task_not_found(task_id)
            changes = TaskChanges(locked[0])
            change(changes, actor)
            if changes.events:
                await self._locks.write(connection, [changes])
        if changes.events:
            metrics.count_finished([changes])
            goes_on = changes.task.status.state is TaskState.SUBMITTED
            self._announcer.committed(runnable={changes.task.pool: 1} if goes_on else {})
            if changes.task.session_id is not None:
                self._announcer.directed(changes.task.session_id)
            if not goes_on:
                self._announcer.family()
        found = await self._store.find(tenant, task_id)
        if found is None:
            raise task_not_found(task_id)
        return found

    def _cancel(self, changes: TaskChanges, actor: str) -> None:
        cancel(changes, actor, grace=self._grace)

    def _pause(self, changes: TaskChanges, actor: str) -> None:
        task = changes.task
        with _explained(task, "it cannot be paused any more"):
            status = lifecycle.pause(task.status, now=task.now, grace=self._grace)
        if status.pausing and not task.status.pausing:
            changes.tell(status, EventType.PAUSE_REQUESTED, actor=actor)
        elif status != task.status:
            changes.move(status, actor=actor)

    def _resume(self, changes: TaskChanges, actor: str) -> None:
        task = changes.task
        parked = task.status.state is TaskState.INPUT_REQUIRED
        with _explained(task, "answer it with ProvideInput" if parked else "it cannot go on"):
            start_within = task.timeouts.schedule_to_start
            status = lifecycle.resume(task.status, now=task.now, start_within=start_within)
        if task.status.pausing:
            changes.tell(status, EventType.PAUSE_WITHDRAWN, actor=actor)
        elif status != task.status:
            changes.move(status, actor=actor)


def cancel(changes: TaskChanges, actor: str, *, grace: float) -> None:
    """Have a locked task end, by `grace` seconds at the latest; raises TASK_STATE when it has otherwise."""
    task = changes.task
    with _explained(task, "it cannot be canceled any more"):
        status = lifecycle.cancel(task.status, now=task.now, grace=grace)
    if status != task.status:
        changes.move(status, actor=actor)


@contextlib.contextmanager
def _explained(task: LockedTask, said: str) -> Iterator[None]:
    try:
        yield
    except IllegalMoveError as error:
        raise task_state(task.task_id, error.state, said) from None
