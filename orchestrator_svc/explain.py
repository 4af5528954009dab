"""Why a task is where it is. The rules are pure; what they rest on is read in one statement."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from orchestrator_svc.errors import task_not_found
from orchestrator_svc.lifecycle import TaskState, WaitReason
from orchestrator_svc.records import Task

# What was counted up to this bound is "at least".
MOST = 10_000
WINDOW_SECONDS = 300


class BlockerKind(StrEnum):
    """What holds a task back; the contract says what each means."""

    QUEUE_PAUSED = "QUEUE_PAUSED"
    QUEUE_LIMIT = "QUEUE_LIMIT"
    KEY_LIMIT = "KEY_LIMIT"
    RATE_LIMIT = "RATE_LIMIT"
    NOT_BEFORE = "NOT_BEFORE"
    BACK_OFF = "BACK_OFF"
    NO_WORKER = "NO_WORKER"
    WORKERS_DRAINING = "WORKERS_DRAINING"
    WORKERS_BUSY = "WORKERS_BUSY"
    INPUT_REQUIRED = "INPUT_REQUIRED"
    TASK_PAUSED = "TASK_PAUSED"
    WORKER_SILENT = "WORKER_SILENT"


# With one of these it starts when a person does something, and nobody knows when that is.
_OPEN_ENDED = frozenset(
    {
        BlockerKind.QUEUE_PAUSED,
        BlockerKind.NO_WORKER,
        BlockerKind.WORKERS_DRAINING,
        BlockerKind.INPUT_REQUIRED,
        BlockerKind.TASK_PAUSED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is so now; counts go up to one above MOST, `now` is the database's clock."""

    state: TaskState
    wait_reason: WaitReason | None
    run_after: datetime
    queue: str
    pool: str
    concurrency_key: str
    paused: bool
    max_running: int | None
    max_running_per_key: int
    running: int
    running_of_key: int
    token_seconds: float | None  # until the rate lets one more start; None = no such limit
    workers: int
    draining: int
    free_slots: int
    silent_session: uuid.UUID | None  # that runs the task, and whose lease has run out
    ahead: int
    ended: int  # in the last WINDOW_SECONDS
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """One thing that holds a task back."""

    kind: BlockerKind
    message: str
    limit: int = 0
    used: int = 0
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a task is where it is; `position` 0 = it does not wait for its turn."""

    state: TaskState
    wait_reason: WaitReason | None
    position: int
    blockers: tuple[Blocker, ...]
    start_time: datetime | None
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Whether a queue, or a key of it, starts nothing now."""

    paused: bool
    limited: bool


class ExplainStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def facts(self, tenant: str, task_id: uuid.UUID) -> Facts | None: ...
    async def holds(
        self, tenant: str, places: Sequence[tuple[str, str]]
    ) -> Mapping[tuple[str, str], Hold]: ...


class Explanations:
    """Of tasks of one tenant at a time."""

    def __init__(self, store: ExplainStore) -> None:
        self._store = store

    async def explain(self, tenant: str, task_id: uuid.UUID) -> Explanation:
        """Why it is where it is; raises TASK_NOT_FOUND."""
        facts = await self._store.facts(tenant, task_id)
        if facts is None:
            raise task_not_found(task_id)
        return explained(facts)

    async def shown(self, tenant: str, tasks: Sequence[Task]) -> list[Task]:
        """The same tasks; those that wait for a limit or a paused queue say so instead of QUEUED."""
        places = {_place(task) for task in tasks if task.status.wait_reason is WaitReason.QUEUED}
        holds = await self._store.holds(tenant, sorted(places)) if places else {}
        return [_shown(task, holds.get(_place(task))) for task in tasks]


def explained(facts: Facts) -> Explanation:
    """The explanation that the facts give."""
    blockers = tuple(_blockers(facts))
    waits = facts.state is TaskState.SUBMITTED and facts.run_after <= facts.now
    start_time, basis = _estimate(facts, blockers)
    return Explanation(
        state=facts.state,
        wait_reason=_reason(facts, blockers),
        position=facts.ahead + 1 if waits else 0,
        blockers=blockers,
        start_time=start_time,
        basis=basis,
    )


def _blockers(facts: Facts) -> Iterator[Blocker]:
    if facts.state is TaskState.INPUT_REQUIRED:
        yield Blocker(kind=BlockerKind.INPUT_REQUIRED, message="it waits for a person's answer")
    elif facts.state is TaskState.PAUSED:
        yield Blocker(kind=BlockerKind.TASK_PAUSED, message="it is paused until somebody resumes it")
    elif facts.silent_session is not None:
        said = f"the worker that runs it is not heard; to take it for dead: EndWorker {facts.silent_session}"
        yield Blocker(kind=BlockerKind.WORKER_SILENT, message=said)
    elif facts.state is TaskState.SUBMITTED:
        yield from _of_time(facts)
        yield from _of_queue(facts)
        yield from _of_workers(facts)


def _of_time(facts: Facts) -> Iterator[Blocker]:
    if facts.run_after <= facts.now:
        return
    if facts.wait_reason is WaitReason.RETRY_BACKOFF:
        kind, said = BlockerKind.BACK_OFF, "it failed and waits out its back-off"
    else:
        kind, said = BlockerKind.NOT_BEFORE, "it was asked to run later"
    yield Blocker(kind=kind, message=said, until=facts.run_after)


def _of_queue(facts: Facts) -> Iterator[Blocker]:
    if facts.paused:
        yield Blocker(kind=BlockerKind.QUEUE_PAUSED, message=f"queue {facts.queue!r} is paused")
    if facts.max_running is not None and facts.running >= facts.max_running:
        yield Blocker(
            kind=BlockerKind.QUEUE_LIMIT,
            message=f"{facts.running} tasks of queue {facts.queue!r} run, of {facts.max_running} that may",
            limit=facts.max_running,
            used=facts.running,
        )
    if facts.concurrency_key and facts.running_of_key >= facts.max_running_per_key:
        yield Blocker(
            kind=BlockerKind.KEY_LIMIT,
            message=(
                f"{facts.running_of_key} tasks of concurrency key {facts.concurrency_key!r} run,"
                f" of {facts.max_running_per_key} that may"
            ),
            limit=facts.max_running_per_key,
            used=facts.running_of_key,
        )
    if facts.token_seconds:
        yield Blocker(
            kind=BlockerKind.RATE_LIMIT,
            message=f"queue {facts.queue!r} has started as many as its rate lets it",
            until=facts.now + timedelta(seconds=facts.token_seconds),
        )


def _of_workers(facts: Facts) -> Iterator[Blocker]:
    if not facts.workers:
        yield Blocker(kind=BlockerKind.NO_WORKER, message=f"no worker serves pool {facts.pool!r}")
    elif facts.draining == facts.workers:
        said = f"every worker of pool {facts.pool!r} has been told to take nothing more"
        yield Blocker(kind=BlockerKind.WORKERS_DRAINING, message=said)
    elif facts.free_slots <= 0:
        said = f"every worker of pool {facts.pool!r} runs as much as it can"
        yield Blocker(kind=BlockerKind.WORKERS_BUSY, message=said)


def _reason(facts: Facts, blockers: Sequence[Blocker]) -> WaitReason | None:
    if facts.wait_reason is not WaitReason.QUEUED:
        return facts.wait_reason
    kinds = {blocker.kind for blocker in blockers}
    if BlockerKind.QUEUE_PAUSED in kinds:
        return WaitReason.QUEUE_PAUSED
    if kinds & {BlockerKind.QUEUE_LIMIT, BlockerKind.KEY_LIMIT, BlockerKind.RATE_LIMIT}:
        return WaitReason.LIMITED
    return facts.wait_reason


def _estimate(facts: Facts, blockers: Sequence[Blocker]) -> tuple[datetime | None, str]:
    if facts.state.live or facts.state.terminal:
        return None, "it has ended" if facts.state.terminal else "an attempt has started"
    open_ended = [blocker for blocker in blockers if blocker.kind in _OPEN_ENDED]
    if open_ended:
        return None, f"nobody knows when that changes: {open_ended[0].message}"
    earliest = max([facts.now, *(each.until for each in blockers if each.until is not None)])
    if facts.ahead == 0 and all(each.until is not None for each in blockers):
        return earliest, "nothing is ahead of it"
    if facts.ahead > MOST:
        return None, f"more than {MOST} tasks are ahead of it"
    if not facts.ended:
        return None, f"no task of its queue has ended in the last {WINDOW_SECONDS} s"
    seconds = (facts.ahead + 1) * WINDOW_SECONDS / facts.ended
    basis = f"{facts.ahead} ahead of it; {facts.ended} tasks of its queue ended in {WINDOW_SECONDS} s"
    return max(earliest, facts.now + timedelta(seconds=seconds)), basis


def _place(task: Task) -> tuple[str, str]:
    return task.placement.queue, task.placement.concurrency_key


def _shown(task: Task, hold: Hold | None) -> Task:
    if hold is None or task.status.wait_reason is not WaitReason.QUEUED:
        return task
    if hold.paused:
        return replace(task, status=replace(task.status, wait_reason=WaitReason.QUEUE_PAUSED))
    if hold.limited:
        return replace(task, status=replace(task.status, wait_reason=WaitReason.LIMITED))
    return task
