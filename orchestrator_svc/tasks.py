"""Reading and ending tasks."""

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import step_not_found, task_not_found, task_state
from orchestrator_svc.lifecycle import IllegalMoveError
from orchestrator_svc.records import LockedTask, Place, Step, StepStatus, Task, TaskDetails
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.filters import Condition


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
    async def steps(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> list[Step]: ...
    async def step(self, tenant: str, task_id: uuid.UUID, step_key: str) -> Step | None: ...


class LockStore(Protocol):
    """Locks and writes; the store says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def lock(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]]
    ) -> list[LockedTask]: ...
    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None: ...


class Announcer(Protocol):
    """Told after each commit."""

    def committed(self, *, runnable: Mapping[str, int]) -> None: ...
    def canceling(self, session_id: uuid.UUID) -> None: ...


class Tasks:
    """Tasks of one tenant at a time, as people see them."""

    def __init__(self, *, store: TaskStore, locks: LockStore, announcer: Announcer) -> None:
        self._store = store
        self._locks = locks
        self._announcer = announcer

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

    async def steps(self, tenant: str, task_id: uuid.UUID, *, after: int, limit: int) -> list[Step]:
        """Steps in the order in which they began, after an ordinal; raises TASK_NOT_FOUND."""
        found = await self._store.steps(tenant, task_id, after=after, limit=limit)
        if not found and await self._store.find(tenant, task_id) is None:
            raise task_not_found(task_id)
        return found

    async def finished_step(self, tenant: str, task_id: uuid.UUID, step_key: str) -> Step:
        """One step that has an outcome; raises STEP_NOT_FOUND."""
        found = await self._store.step(tenant, task_id, step_key)
        if found is None or found.status is StepStatus.STARTED:
            raise step_not_found(task_id, step_key, "has no stored outcome")
        return found

    @undisturbed
    async def cancel(self, tenant: str, task_id: uuid.UUID, *, actor: str) -> Task:
        """The task after the request; raises TASK_NOT_FOUND, or TASK_STATE when it has ended otherwise."""
        async with self._locks.transaction() as connection:
            locked = await self._locks.lock(connection, [(tenant, task_id)])
            if not locked:
                raise task_not_found(task_id)
            changes = _canceled(locked[0], actor)
            if changes.events:
                await self._locks.write(connection, [changes])
        if changes.events:
            metrics.count_finished([changes])
            self._announcer.committed(runnable={})
            if changes.task.session_id is not None:
                self._announcer.canceling(changes.task.session_id)
        found = await self._store.find(tenant, task_id)
        if found is None:
            raise task_not_found(task_id)
        return found


def _canceled(task: LockedTask, actor: str) -> TaskChanges:
    changes = TaskChanges(task)
    try:
        status = lifecycle.cancel(task.status, now=task.now, grace=10.0)
    except IllegalMoveError as error:
        raise task_state(task.task_id, error.state, "it cannot be canceled any more") from None
    if status.state is not task.status.state:
        changes.move(status, actor=actor)
    return changes
