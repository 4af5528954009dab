"""Taking new tasks in: what comes after the pure checks, up to the durable answer."""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Protocol

from orchestrator_svc import metrics
from orchestrator_svc.agents import ChosenAgent
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.children import ChildRequest, Prepared
from orchestrator_svc.errors import queue_not_found, request_id_reused
from orchestrator_svc.lifecycle import submitted
from orchestrator_svc.overrides import Overrides
from orchestrator_svc.placement import Placement, Start, Strategy
from orchestrator_svc.records import (
    NOT_PLACED,
    NewTask,
    NotPlaced,
    RequestKey,
    StepInput,
    Stored,
    Submitter,
    Task,
)
from orchestrator_svc.schemas import InputSchemas
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.errors import DomainError, Violation, invalid
from svc_kit.group_commit import GroupCommit, Observer
from svc_kit.ids import uuid7
from svc_kit.strict_json import JsonValue, canonical, digest

SUBMIT = "SubmitTask"
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
    placement: Placement = field(default_factory=Placement)
    start: Start = field(default_factory=Start)
    input_blob: str = ""  # digest of the input in place of it

    def digest(self) -> str:
        """Over everything that makes two requests the same; the input goes in as its own digest."""
        body: dict[str, JsonValue] = {
            "agent": self.agent,
            "agent_version": self.agent_version,
            "task_type": self.task_type,
            # A blob is the canonical text too.
            "input": self.input_blob or digest(self.input_json.encode()),
            "labels": dict(self.labels),
            **self.overrides.body(),
        }
        # Left out where nothing is asked for: a repeat is known to a service that learnt of this later.
        if self.placement != Placement():
            body["placement"] = dict(asdict(self.placement))
        if self.start != Start():
            run_after = self.start.run_after
            body["start"] = {
                "strategy": str(self.start.strategy),
                "run_after": run_after.isoformat() if run_after is not None else None,
                "delay": round(self.start.delay * 1e9),
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

    async def store(self, rows: Sequence[NewTask]) -> list[Stored | NotPlaced | None]: ...
    async def queue_exists(self, tenant: str, queue: str) -> bool: ...
    async def recall(self, rows: Sequence[NewTask]) -> list[tuple[Task, str]]: ...
    async def find_request(self, tenant: str, key: RequestKey) -> tuple[uuid.UUID, str] | None: ...


class Admission(Protocol):
    """Decides what the queues take."""

    async def admit(self, rows: Sequence[NewTask]) -> list[Stored | DomainError | None]: ...


class TaskReader(Protocol):
    """Reads single tasks."""

    async def find(self, tenant: str, task_id: uuid.UUID) -> Task | None: ...


class AgentChooser(Protocol):
    """Knows which agent versions may run."""

    async def choose(self, tenant: str, name: str, version: str) -> ChosenAgent: ...


class Documents(Protocol):
    """Holds the inputs that came before."""

    async def check(self, tenant: str, named: str) -> None: ...
    async def value(self, tenant: str, named: str) -> JsonValue: ...


class Gate(Protocol):
    """Whether new work is taken at all."""

    def check(self) -> None: ...


class Submissions:
    """Stores new tasks; callers that wait at the same time share one commit."""

    def __init__(
        self,
        *,
        store: SubmissionStore,
        admission: Admission,
        tasks: TaskReader,
        agents: AgentChooser,
        gate: Gate,
        blobs: Documents,
        announcer: Announcer,
        observe: Observer | None = None,
    ) -> None:
        self._store = store
        self._admission = admission
        self._tasks = tasks
        self._agents = agents
        self._gate = gate
        self._blobs = blobs
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
        key = request_key(caller, SUBMIT, request_id, asked.digest())
        try:
            self._gate.check()
            chosen = await self._agents.choose(caller.tenant, asked.agent, asked.agent_version)
            if asked.input_blob:
                await self._check_blob(caller.tenant, chosen, asked)
            else:
                self._check_input(chosen, asked)
        except DomainError:
            # The world may have changed since the first request; its answer stands all the same.
            earlier = await self.earlier(caller.tenant, key)
            if earlier is None:
                raise
            return earlier
        new = NewTask(
            task_id=_NIL if validate_only else uuid7(),
            tenant=caller.tenant,
            agent=asked.overrides.applied(chosen.pin),
            task_type=asked.task_type,
            input_json=asked.input_json,
            input_blob=asked.input_blob or None,
            labels=asked.labels,
            submitters=(caller.submitter(),),
            traceparent=caller.traceparent,
            timeouts=asked.overrides.timeouts,
            request=key,
            placement=asked.placement,
            start=asked.start,
        )
        if not validate_only:
            return await self._lane.submit(new)
        if not await self._store.queue_exists(caller.tenant, asked.placement.queue):
            raise queue_not_found(asked.placement.queue)
        return _stored(new, None)

    async def prepare(self, tenant: str, begin: StepInput, asked: ChildRequest) -> Prepared:
        """A child task as far as it can be made ready before its step has begun."""
        try:
            self._gate.check()
            chosen = await self._agents.choose(tenant, begin.name, asked.agent_version)
            found = self._schemas.violations(
                chosen.pin, chosen.input_schema_json, json.loads(begin.input_json), field="begin.input_json"
            )
            if found:
                raise invalid(found)
        except DomainError as error:
            return Prepared(asked=asked, chosen=error)
        return Prepared(asked=asked, chosen=chosen)

    async def earlier(self, tenant: str, key: RequestKey | None) -> Task | None:
        """The task that an earlier request with this key brought; raises REQUEST_ID_REUSED."""
        known = await self._store.find_request(tenant, key) if key is not None else None
        if known is None or key is None:
            return None
        task_id, body = known
        if body != key.digest:
            raise request_id_reused(key.request_id)
        return await self._tasks.find(tenant, task_id)

    async def store(self, new: NewTask) -> Task:
        """Store a task in a commit that it may share."""
        return await self._lane.submit(new)

    @undisturbed
    async def store_together(self, rows: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        """Store tasks beside the shared commits; as long as their queues take them."""
        return await self._commit(rows)

    async def close(self) -> None:
        """Answer whoever waits and take nothing more."""
        await self._lane.close()

    async def _check_blob(self, tenant: str, chosen: ChosenAgent, asked: Submission) -> None:
        value = await self._blobs.value(tenant, asked.input_blob)
        if not isinstance(value, dict):
            raise invalid([Violation(asked.input_field, "the blob must be a JSON object")])
        # Megabytes are looked at aside, so that nobody else waits for them.
        await asyncio.to_thread(self._check_input, chosen, replace(asked, input=value))

    def _check_input(self, chosen: ChosenAgent, asked: Submission) -> None:
        found = self._schemas.violations(
            chosen.pin, chosen.input_schema_json, asked.input, field=asked.input_field
        )
        if found:
            raise invalid(found)

    async def _commit(self, rows: Sequence[NewTask]) -> Sequence[Task | DomainError]:
        plain = [row for row in rows if row.start.strategy is Strategy.QUEUE]
        outcomes: dict[uuid.UUID, Stored | NotPlaced | DomainError | None] = {}
        if plain:
            found = await self._store.store(plain)
            outcomes.update(zip((row.task_id for row in plain), found, strict=True))
        special = [row for row in rows if isinstance(outcomes.get(row.task_id, NOT_PLACED), NotPlaced)]
        if special:
            admitted = await self._admission.admit(special)
            outcomes.update(zip((row.task_id for row in special), admitted, strict=True))
        self._announce(outcomes.values())
        missed = [row for row in rows if outcomes[row.task_id] is None]
        known = iter(await self._store.recall(missed) if missed else ())
        results: list[Task | DomainError] = []
        for row in rows:
            outcome = outcomes[row.task_id]
            if isinstance(outcome, DomainError):
                results.append(outcome)
            elif isinstance(outcome, Stored):
                results.append(_stored(row, outcome))
            else:
                results.append(_recalled(row, *next(known)))
        return results

    def _announce(self, outcomes: Iterable[Stored | NotPlaced | DomainError | None]) -> None:
        stored = [outcome for outcome in outcomes if isinstance(outcome, Stored)]
        if not stored:
            return
        for pool, count in Counter(each.pool for each in stored).items():
            metrics.SUBMITTED.labels(pool).inc(count)
        self._announcer.committed(runnable=Counter(each.pool for each in stored if each.ready))


def _recalled(row: NewTask, task: Task, body: str) -> Task | DomainError:
    if row.request is not None and body != row.request.digest:
        return request_id_reused(row.request.request_id)
    return task


def _stored(row: NewTask, stored: Stored | None) -> Task:
    """The task as it was stored; without `stored`, as it would be."""
    created = stored.create_time if stored is not None else datetime.fromtimestamp(0).astimezone()
    starts = stored.run_after if stored is not None else created
    return Task(
        task_id=row.task_id,
        tenant=row.tenant,
        agent=row.agent,
        task_type=row.task_type,
        labels=row.labels,
        submitters=row.submitters,
        retried_from=row.retried_from,
        status=submitted(
            created, row.timeouts.schedule_to_start, row.timeouts.schedule_to_close, run_after=starts
        ),
        revision=0 if stored is None else 1,
        create_time=created,
        start_time=None,
        end_time=None,
        timeouts=row.timeouts,
        placement=row.placement,
        pool=stored.pool if stored is not None else "",
        from_step=row.from_step,
    )


def request_key(caller: Caller, method: str, request_id: uuid.UUID | None, body: str) -> RequestKey | None:
    """By which a repeat is known, where the caller gave an id."""
    if request_id is None:
        return None
    return RequestKey(subject=caller.subject, method=method, request_id=request_id, digest=body)
