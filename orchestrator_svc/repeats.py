"""New tasks from old ones: one that has ended, or dead letters by a filter."""

import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Protocol

from orchestrator_svc.errors import request_id_reused, step_not_found, task_not_found, task_state
from orchestrator_svc.records import NewTask, RequestKey, Task, TaskDetails
from orchestrator_svc.submissions import Caller, Gate, request_key
from svc_kit.errors import DomainError, FailedPrecondition
from svc_kit.filters import Condition
from svc_kit.ids import uuid7
from svc_kit.strict_json import canonical, digest

RETRY = "RetryTask"
REDRIVE = "RedriveTasks"
# One statement stores them all.
_MAX_INPUT_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveRequest:
    """A checked request; `filter` is what `conditions` were read from."""

    filter: str
    conditions: Sequence[Condition]
    limit: int
    request_id: uuid.UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """What came of it; `task_ids` is empty where nothing was to be stored."""

    count: int
    task_ids: tuple[uuid.UUID, ...] = ()
    inactive: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    dead: list[Task] = field(default_factory=list)
    inactive: int = 0
    more: bool = False


class RepeatStore(Protocol):
    """What is asked of the store, which says what each does."""

    def alone(self, tenant: str) -> AbstractAsyncContextManager[None]: ...
    async def dead_letters(
        self, tenant: str, conditions: Sequence[Condition], *, limit: int
    ) -> list[tuple[Task, int]]: ...
    async def inputs(self, tenant: str, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]: ...
    async def earlier(self, tenant: str, key: RequestKey) -> list[tuple[uuid.UUID, str]]: ...
    async def ordinal(self, tenant: str, task_id: uuid.UUID, step_key: str) -> int | None: ...


class TaskReader(Protocol):
    """Reads single tasks."""

    async def details(self, tenant: str, task_id: uuid.UUID) -> TaskDetails | None: ...


class Submissions(Protocol):
    """Stores new tasks."""

    async def earlier(self, tenant: str, key: RequestKey | None) -> Task | None: ...
    async def store(self, new: NewTask) -> Task: ...
    async def store_together(self, rows: Sequence[NewTask]) -> Sequence[Task | DomainError]: ...


class ActiveAgents(Protocol):
    """Knows which agents take new tasks."""

    async def check_active(self, tenant: str, name: str) -> None: ...


class Repeats:
    """Repeats tasks as they were: agent version, input, type, labels, retries and clocks."""

    def __init__(
        self,
        *,
        store: RepeatStore,
        tasks: TaskReader,
        submissions: Submissions,
        agents: ActiveAgents,
        gate: Gate,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._submissions = submissions
        self._agents = agents
        self._gate = gate

    async def retry(
        self, caller: Caller, task_id: uuid.UUID, request_id: uuid.UUID | None, *, from_step: str = ""
    ) -> Task:
        """A new task from a terminal one; with `from_step` it takes over the steps before that one."""
        body = task_id.bytes + from_step.encode()
        key = request_key(caller, RETRY, request_id, digest(body))
        earlier = await self._submissions.earlier(caller.tenant, key)
        if earlier is not None:
            return earlier
        self._gate.check()
        details = await self._tasks.details(caller.tenant, task_id)
        if details is None:
            raise task_not_found(task_id)
        old = details.task
        if not old.status.state.terminal:
            raise task_state(task_id, old.status.state, "only a task that has ended can be retried")
        if old.erase_time is not None:
            raise task_state(task_id, old.status.state, "what was written in it was erased")
        await self._agents.check_active(caller.tenant, old.agent.name)
        new = _again(caller, old, details.input_json, key)
        if from_step:
            ordinal = await self._store.ordinal(caller.tenant, task_id, from_step)
            if ordinal is None:
                raise step_not_found(task_id, from_step, "does not exist")
            new = replace(new, from_step=from_step, step_count=ordinal - 1)
        return await self._submissions.store(new)

    async def redrive(self, caller: Caller, asked: RedriveRequest, *, validate_only: bool) -> Redriven:
        """New tasks from dead letters; raises what the contract says of RedriveTasks."""
        body = digest(canonical({"filter": asked.filter, "max_tasks": asked.limit}))
        method = f"{REDRIVE} {asked.request_id or uuid.uuid4()}"
        if validate_only:
            chosen = await self._choose(caller.tenant, asked)
            return Redriven(count=len(chosen.dead), inactive=chosen.inactive, more=chosen.more)
        async with self._store.alone(caller.tenant):
            key = RequestKey(subject=caller.subject, method=method, request_id=uuid.UUID(int=0), digest=body)
            earlier = await self._store.earlier(caller.tenant, key)
            if any(known != body for _, known in earlier) and asked.request_id is not None:
                raise request_id_reused(asked.request_id)
            if earlier:
                return Redriven(count=len(earlier), task_ids=tuple(task_id for task_id, _ in earlier))
            self._gate.check()
            chosen = await self._choose(caller.tenant, asked)
            inputs = await self._store.inputs(caller.tenant, [old.task_id for old in chosen.dead])
            # Every new task has its part of the request id, so that a repeat finds them all.
            rows = [
                _again(caller, old, inputs[old.task_id], replace(key, request_id=old.task_id))
                for old in chosen.dead
            ]
            stored = await self._submissions.store_together(rows) if rows else ()
        refused = [each for each in stored if isinstance(each, DomainError)]
        if rows and len(refused) == len(rows):
            raise refused[0]
        made = tuple(each.task_id for each in stored if isinstance(each, Task))
        more = chosen.more or bool(refused)
        return Redriven(count=len(made), task_ids=made, inactive=chosen.inactive, more=more)

    async def _choose(self, tenant: str, asked: RedriveRequest) -> _Chosen:
        """As many as may be stored together; their inputs are not read yet."""
        found = await self._store.dead_letters(tenant, asked.conditions, limit=asked.limit + 1)
        active = {name: await self._is_active(tenant, name) for name in {old.agent.name for old, _ in found}}
        dead: list[Task] = []
        room = _MAX_INPUT_BYTES
        inactive = 0
        for old, size in found[: asked.limit]:
            if not active[old.agent.name]:
                inactive += 1
                continue
            room -= size
            if dead and room < 0:
                return _Chosen(dead=dead, inactive=inactive, more=True)
            dead.append(old)
        return _Chosen(dead=dead, inactive=inactive, more=len(found) > asked.limit)

    async def _is_active(self, tenant: str, agent: str) -> bool:
        try:
            await self._agents.check_active(tenant, agent)
        except FailedPrecondition:
            return False
        return True


def _again(caller: Caller, old: Task, input_json: str, key: RequestKey | None) -> NewTask:
    return NewTask(
        task_id=uuid7(),
        tenant=caller.tenant,
        agent=old.agent,
        task_type=old.task_type,
        input_json=input_json,
        labels=old.labels,
        submitters=(caller.submitter(),),
        traceparent=caller.traceparent,
        retried_from=old.task_id,
        timeouts=old.timeouts,
        request=key,
        placement=old.placement,
        # What a task refers to is kept as long as the task.
        input_blob=old.input_blob,
    )
