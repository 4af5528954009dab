"""Taking new tasks in: what comes after the pure checks, up to the durable answer."""

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from orchestrator_svc import metrics
from orchestrator_svc.agents import ChosenAgent
from orchestrator_svc.errors import request_id_reused, task_not_found, task_state
from orchestrator_svc.lifecycle import submitted
from orchestrator_svc.overrides import Overrides
from orchestrator_svc.records import (
    POOL,
    NewTask,
    RequestKey,
    Submitter,
    Task,
    TaskDetails,
)
from orchestrator_svc.schemas import InputSchemas
from svc_kit.errors import DomainError, invalid
from svc_kit.group_commit import GroupCommit, Observer
from svc_kit.ids import uuid7
from svc_kit.strict_json import JsonValue, canonical, digest

SUBMIT = "SubmitTask"
RETRY = "RetryTask"
_ROW_BYTES = 1024
_NIL = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked request for a new task."""

    agent: str
    agent_version: str  # empty = the newest
    task_type: str
    input: JsonValue = field(repr=False)
    input_json: str = field(repr=False)  # canonical
    input_field: str  # where the input stood in the request
    labels: Mapping[str, str]
    request_id: uuid.UUID | None
    overrides: Overrides = field(default_factory=Overrides)

    def digest(self) -> str:
        """Over everything that makes two requests the same; the input goes in as its own digest."""
        body: JsonValue = {
            "agent": self.agent,
            "agent_version": self.agent_version,
            "task_type": self.task_type,
            "input": digest(self.input_json.encode()),
            "labels": dict(self.labels),
            **self.overrides.body(),
        }
        return digest(canonical(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and about which tenant; `home` is the caller's own. `traceparent` is of the call."""

    tenant: str
    home: str
    subject: str
    roles: tuple[str, ...]
    traceparent: str = ""

    def submitter(self) -> Submitter:
        """As a task keeps it."""
        return Submitter(tenant=self.home, subject=self.subject, roles=self.roles)


class SubmissionStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def store(self, rows: Sequence[NewTask]) -> list[datetime | None]: ...
    async def recall(self, rows: Sequence[NewTask]) -> list[tuple[Task, str]]: ...
    async def find_request(self, tenant: str, key: RequestKey) -> tuple[uuid.UUID, str] | None: ...


class TaskReader(Protocol):
    """Reads single tasks."""

    async def find(self, tenant: str, task_id: uuid.UUID) -> Task | None: ...
    async def details(self, tenant: str, task_id: uuid.UUID) -> TaskDetails | None: ...


class AgentChooser(Protocol):
    """Knows which agent versions may run."""

    async def choose(self, tenant: str, name: str, version: str) -> ChosenAgent: ...
    async def check_active(self, tenant: str, name: str) -> None: ...


class Gate(Protocol):
    """Whether new work is taken at all."""

    def check(self) -> None: ...


class Announcer(Protocol):
    """Told after each commit."""

    def committed(self, *, runnable: Mapping[str, int]) -> None: ...


class Submissions:
    """Stores new tasks; callers that wait at the same time share one commit."""

    def __init__(
        self,
        *,
        store: SubmissionStore,
        tasks: TaskReader,
        agents: AgentChooser,
        gate: Gate,
        announcer: Announcer,
        observe: Observer | None = None,
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._agents = agents
        self._gate = gate
        self._announcer = announcer
        self._schemas = InputSchemas()
        self._lane: GroupCommit[NewTask, Task] = GroupCommit(
            self._commit,
            size_of=lambda row: _ROW_BYTES + len(row.input_json),
            tenant_of=lambda row: row.tenant,
            observe=observe,
        )

    async def submit(self, caller: Caller, asked: Submission, *, validate_only: bool) -> Task:
        """The stored task, or the one that an earlier request with the same id and body brought.

        With `validate_only` nothing is stored, and the task has the nil id.
        """
        request_id = None if validate_only else asked.request_id
        key = _key(caller, SUBMIT, request_id, asked.digest())
        try:
            self._gate.check()
            chosen = await self._agents.choose(caller.tenant, asked.agent, asked.agent_version)
            self._check_input(chosen, asked)
        except DomainError:
            # The world may have changed since the first request; its answer stands all the same.
            earlier = await self._earlier(caller.tenant, key)
            if earlier is None:
                raise
            return earlier
        new = NewTask(
            task_id=_NIL if validate_only else uuid7(),
            tenant=caller.tenant,
            agent=asked.overrides.applied(chosen.pin),
            task_type=asked.task_type,
            input_json=asked.input_json,
            labels=asked.labels,
            submitters=(caller.submitter(),),
            traceparent=caller.traceparent,
            timeouts=asked.overrides.timeouts,
            request=key,
        )
        return _stored(new, None) if validate_only else await self._lane.submit(new)

    async def retry(self, caller: Caller, task_id: uuid.UUID, request_id: uuid.UUID | None) -> Task:
        """A new task from a terminal one, with its agent version, input, type and labels."""
        key = _key(caller, RETRY, request_id, digest(task_id.bytes))
        earlier = await self._earlier(caller.tenant, key)
        if earlier is not None:
            return earlier
        self._gate.check()
        details = await self._tasks.details(caller.tenant, task_id)
        if details is None:
            raise task_not_found(task_id)
        old = details.task
        if not old.status.state.terminal:
            raise task_state(task_id, old.status.state, "only a task that has ended can be retried")
        await self._agents.check_active(caller.tenant, old.agent.name)
        return await self._lane.submit(
            NewTask(
                task_id=uuid7(),
                tenant=caller.tenant,
                agent=old.agent,
                task_type=old.task_type,
                input_json=details.input_json,
                labels=old.labels,
                submitters=(caller.submitter(),),
                traceparent=caller.traceparent,
                retried_from=task_id,
                timeouts=old.timeouts,
                request=key,
            )
        )

    async def close(self) -> None:
        """Answer whoever waits and take nothing more."""
        await self._lane.close()

    def _check_input(self, chosen: ChosenAgent, asked: Submission) -> None:
        found = self._schemas.violations(
            chosen.pin, chosen.input_schema_json, asked.input, field=asked.input_field
        )
        if found:
            raise invalid(found)

    async def _earlier(self, tenant: str, key: RequestKey | None) -> Task | None:
        known = await self._store.find_request(tenant, key) if key is not None else None
        if known is None or key is None:
            return None
        task_id, body = known
        if body != key.digest:
            raise request_id_reused(key.request_id)
        return await self._tasks.find(tenant, task_id)

    async def _commit(self, rows: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        times = await self._store.store(rows)
        runnable = Counter(POOL for time in times if time is not None)
        if runnable:
            metrics.SUBMITTED.labels(POOL).inc(runnable[POOL])
            self._announcer.committed(runnable=runnable)
        results: list[Task | DomainError] = []
        missed = [row for row, time in zip(rows, times, strict=True) if time is None]
        known = iter(await self._store.recall(missed) if missed else ())
        for row, time in zip(rows, times, strict=True):
            results.append(_stored(row, time) if time is not None else _recalled(row, *next(known)))
        return results


def _recalled(row: NewTask, task: Task, body: str) -> Task | DomainError:
    if row.request is not None and body != row.request.digest:
        return request_id_reused(row.request.request_id)
    return task


def _stored(row: NewTask, time: datetime | None) -> Task:
    created = time or datetime.fromtimestamp(0).astimezone()
    return Task(
        task_id=row.task_id,
        tenant=row.tenant,
        agent=row.agent,
        task_type=row.task_type,
        labels=row.labels,
        submitters=row.submitters,
        retried_from=row.retried_from,
        status=submitted(created, row.timeouts.schedule_to_start, row.timeouts.schedule_to_close),
        revision=0 if time is None else 1,
        create_time=created,
        start_time=None,
        end_time=None,
        timeouts=row.timeouts,
    )


def _key(caller: Caller, method: str, request_id: uuid.UUID | None, body: str) -> RequestKey | None:
    if request_id is None:
        return None
    return RequestKey(subject=caller.subject, method=method, request_id=request_id, digest=body)
