"""Where a task may go from where it is. Pure: no clock, no store, no wire.

SUBMITTED ──claim──► RUNNING ──complete──► COMPLETED
    ▲  │                │ │ └──fail──────► FAILED
    │  │             cancel└──retry, requeue──► SUBMITTED
    │  │                ▼
    │  └──cancel─► CANCELED ◄──wind up── CANCELING ──complete──► COMPLETED
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from orchestrator_svc.retry import RetryPolicy, back_off

MAX_CRASHES = 3
POISON = "POISON"
START_TO_CLOSE_TIMEOUT = "START_TO_CLOSE_TIMEOUT"


class TaskState(StrEnum):
    """Where a task is; the contract says what each means."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"

    @property
    def terminal(self) -> bool:
        """Whether it never changes again."""
        return self in TERMINAL

    @property
    def live(self) -> bool:
        """Whether an attempt works on it."""
        return self in LIVE


TERMINAL = frozenset({TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED})
LIVE = frozenset({TaskState.RUNNING, TaskState.CANCELING})


class WaitReason(StrEnum):
    """What a submitted task waits for."""

    QUEUED = "QUEUED"
    RETRY_BACKOFF = "RETRY_BACKOFF"


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    LOST = "LOST"
    RELEASED = "RELEASED"
    CANCELED = "CANCELED"


class Move(StrEnum):
    """What can happen to a task."""

    CLAIM = "CLAIM"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    RETRY = "RETRY"
    REQUEUE = "REQUEUE"
    CANCEL = "CANCEL"
    WIND_UP = "WIND_UP"


LEGAL: Mapping[tuple[TaskState, Move], TaskState] = {
    (TaskState.SUBMITTED, Move.CLAIM): TaskState.RUNNING,
    (TaskState.SUBMITTED, Move.CANCEL): TaskState.CANCELED,
    (TaskState.RUNNING, Move.COMPLETE): TaskState.COMPLETED,
    (TaskState.RUNNING, Move.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, Move.RETRY): TaskState.SUBMITTED,
    (TaskState.RUNNING, Move.REQUEUE): TaskState.SUBMITTED,
    (TaskState.RUNNING, Move.CANCEL): TaskState.CANCELING,
    # The work was done before the worker heard of the cancel: what is done is told as done.
    (TaskState.CANCELING, Move.COMPLETE): TaskState.COMPLETED,
    (TaskState.CANCELING, Move.WIND_UP): TaskState.CANCELED,
}


class IllegalMoveError(Exception):
    """The move is not possible from that state."""

    def __init__(self, state: TaskState, move: Move) -> None:
        super().__init__(f"{move} is not possible from {state}")
        self.state = state
        self.move = move


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskError:
    """Why an attempt or a task failed."""

    error_class: str
    message: str
    step_key: str = ""
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The part of a task that moves."""

    state: TaskState
    wait_reason: WaitReason | None = None
    run_after: datetime
    attempt: int = 0  # the fence: rises on every claim
    failures: int = 0  # the retry budget counts these
    crashes: int = 0  # worker deaths with the task aboard
    error: TaskError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ends, and where that leaves the task; `error` is the attempt's own."""

    status: Status
    outcome: Outcome
    error: TaskError | None = None


def submitted(now: datetime) -> Status:
    """A task's first status."""
    return Status(state=TaskState.SUBMITTED, wait_reason=WaitReason.QUEUED, run_after=now)


def claim(status: Status) -> Status:
    """A worker takes the task: the next attempt begins."""
    return replace(_moved(status, Move.CLAIM), attempt=status.attempt + 1)


def complete(status: Status) -> Ending:
    """The attempt has a result."""
    return Ending(status=replace(_moved(status, Move.COMPLETE), error=None), outcome=Outcome.COMPLETED)


def fail(
    status: Status,
    error: TaskError,
    *,
    policy: RetryPolicy,
    now: datetime,
    chance: float,
    told: float = 0.0,
) -> Ending:
    """The attempt failed: the task waits and runs again, or has failed; a canceled one has wound up.

    `told` and `chance` are as in `back_off`.
    """
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(status, Move.WIND_UP), outcome=Outcome.CANCELED, error=error)
    failed = replace(status, failures=status.failures + 1, error=error)
    if not error.retryable or not policy.allows(failures=failed.failures, error_class=error.error_class):
        return Ending(status=_moved(failed, Move.FAIL), outcome=Outcome.FAILED, error=error)
    wait = back_off(policy, failures=failed.failures, told=told, chance=chance)
    waiting = replace(
        _moved(failed, Move.RETRY),
        wait_reason=WaitReason.RETRY_BACKOFF,
        run_after=now + timedelta(seconds=wait),
    )
    return Ending(status=waiting, outcome=Outcome.FAILED, error=error)


def release(status: Status) -> Ending:
    """The worker gives the task back unharmed."""
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(status, Move.WIND_UP), outcome=Outcome.CANCELED)
    return Ending(status=_queued(status), outcome=Outcome.RELEASED)


def lose(status: Status) -> Ending:
    """The worker died with the task aboard: it runs again at once, unless it has brought down too many."""
    lost = replace(status, crashes=status.crashes + 1)
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(lost, Move.WIND_UP), outcome=Outcome.LOST)
    if lost.crashes < MAX_CRASHES:
        return Ending(status=_queued(lost), outcome=Outcome.LOST)
    poison = TaskError(error_class=POISON, message=f"{lost.crashes} workers died while they ran this task")
    return Ending(status=replace(_moved(lost, Move.FAIL), error=poison), outcome=Outcome.LOST, error=poison)


def time_out(status: Status, *, policy: RetryPolicy, seconds: float, now: datetime, chance: float) -> Ending:
    """The attempt took longer than its agent version allows."""
    error = TaskError(
        error_class=START_TO_CLOSE_TIMEOUT,
        message=f"the attempt did not end within {seconds:g} s",
        retryable=True,
    )
    return fail(status, error, policy=policy, now=now, chance=chance)


def cancel(status: Status) -> Status:
    """Somebody wants it to end; a task that is ending or has been ended so stays as it is."""
    if status.state in (TaskState.CANCELING, TaskState.CANCELED):
        return status
    return _moved(status, Move.CANCEL)


def _queued(status: Status) -> Status:
    return replace(_moved(status, Move.REQUEUE), wait_reason=WaitReason.QUEUED)


def _moved(status: Status, move: Move) -> Status:
    target = LEGAL.get((status.state, move))
    if target is None:
        raise IllegalMoveError(status.state, move)
    return replace(status, state=target, wait_reason=None)
