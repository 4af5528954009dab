"""Where a task may go from where it is. Pure: no clock, no store, no wire. `LEGAL` is the whole machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from orchestrator_svc.retry import RetryPolicy, back_off

MAX_CRASHES = 3
# One death says little of the many tasks aboard, and they all shall run again at once; what is aboard at the
# next one too may have caused both.
SUSPECT_LOSSES = 2
POISON = "POISON"
# What an attempt is told to have ended by when it did not wind up in the time it was given.
CANCEL_FORCED = "CANCEL_FORCED"
PAUSE_FORCED = "PAUSE_FORCED"
# Runs before every task of its class: what a person has let go on had waited its turn already.
AHEAD = datetime(2000, 1, 1, tzinfo=UTC)
# Not by the clock: what waits for its children is woken when one of them ends.
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


class TaskState(StrEnum):
    """Where a task is; the contract says what each means."""

    SUBMITTED = "SUBMITTED"
    RUNNING = "RUNNING"
    CANCELING = "CANCELING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    PAUSED = "PAUSED"
    INPUT_REQUIRED = "INPUT_REQUIRED"

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
# A person decides when it goes on; no time-out runs meanwhile.
PARKED = frozenset({TaskState.PAUSED, TaskState.INPUT_REQUIRED})


class WaitReason(StrEnum):
    """What a submitted task waits for."""

    QUEUED = "QUEUED"
    RETRY_BACKOFF = "RETRY_BACKOFF"
    SCHEDULED = "SCHEDULED"
    CHILDREN = "CHILDREN"
    # Never stored: found out for an answer.
    LIMITED = "LIMITED"
    QUEUE_PAUSED = "QUEUE_PAUSED"


class InputKind(StrEnum):
    """What a task that requires input waits for."""

    QUESTION = "QUESTION"
    APPROVAL = "APPROVAL"
    UNCERTAIN_STEP = "UNCERTAIN_STEP"


class Timeout(StrEnum):
    """Which time ran out."""

    SCHEDULE_TO_START = "SCHEDULE_TO_START"
    START_TO_CLOSE = "START_TO_CLOSE"
    SCHEDULE_TO_CLOSE = "SCHEDULE_TO_CLOSE"

    @property
    def error_class(self) -> str:
        """What the failure is called."""
        return f"{self}_TIMEOUT"


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    LOST = "LOST"
    RELEASED = "RELEASED"
    CANCELED = "CANCELED"
    PAUSED = "PAUSED"
    PARKED = "PARKED"  # it asked for input, or waits for its children


class Move(StrEnum):
    """What can happen to a task."""

    CLAIM = "CLAIM"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    RETRY = "RETRY"
    REQUEUE = "REQUEUE"
    CANCEL = "CANCEL"
    WIND_UP = "WIND_UP"
    PAUSE = "PAUSE"
    RESUME = "RESUME"
    REQUEST_INPUT = "REQUEST_INPUT"
    PROVIDE_INPUT = "PROVIDE_INPUT"
    AWAIT_CHILDREN = "AWAIT_CHILDREN"
    CHILD_ENDED = "CHILD_ENDED"
    EXPIRE = "EXPIRE"


LEGAL: Mapping[tuple[TaskState, Move], TaskState] = {
    (TaskState.SUBMITTED, Move.CLAIM): TaskState.RUNNING,
    (TaskState.SUBMITTED, Move.CANCEL): TaskState.CANCELED,
    (TaskState.SUBMITTED, Move.PAUSE): TaskState.PAUSED,
    (TaskState.SUBMITTED, Move.EXPIRE): TaskState.FAILED,
    (TaskState.RUNNING, Move.COMPLETE): TaskState.COMPLETED,
    (TaskState.RUNNING, Move.FAIL): TaskState.FAILED,
    (TaskState.RUNNING, Move.RETRY): TaskState.SUBMITTED,
    (TaskState.RUNNING, Move.REQUEUE): TaskState.SUBMITTED,
    (TaskState.RUNNING, Move.EXPIRE): TaskState.FAILED,
    (TaskState.RUNNING, Move.CANCEL): TaskState.CANCELING,
    # The attempt has ended: whoever waits for a person holds no worker's slot.
    (TaskState.RUNNING, Move.PAUSE): TaskState.PAUSED,
    (TaskState.RUNNING, Move.REQUEST_INPUT): TaskState.INPUT_REQUIRED,
    # It holds no slot while other tasks work for it, so parents can never take all slots from their children.
    (TaskState.RUNNING, Move.AWAIT_CHILDREN): TaskState.SUBMITTED,
    (TaskState.SUBMITTED, Move.CHILD_ENDED): TaskState.SUBMITTED,
    # Never straight to RUNNING: the slot was given up.
    (TaskState.PAUSED, Move.RESUME): TaskState.SUBMITTED,
    (TaskState.PAUSED, Move.CANCEL): TaskState.CANCELED,
    (TaskState.INPUT_REQUIRED, Move.PROVIDE_INPUT): TaskState.SUBMITTED,
    # What it asked for may be answered while it is paused; after that it asks again.
    (TaskState.INPUT_REQUIRED, Move.PAUSE): TaskState.PAUSED,
    (TaskState.INPUT_REQUIRED, Move.CANCEL): TaskState.CANCELED,
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
    timeout: Timeout | None = None  # the time that ran out, if one did


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The part of a task that moves."""

    state: TaskState
    wait_reason: WaitReason | None = None
    input_kind: InputKind | None = None
    run_after: datetime
    attempt: int = 0  # the fence: rises on every claim
    failures: int = 0  # the retry budget counts these
    crashes: int = 0  # worker deaths that are put down to the task
    losses: int = 0  # worker deaths in a row with the task aboard
    suspect: bool = False  # so many that it may have caused them: no worker takes two such tasks
    pausing: bool = False  # the live attempt winds up, and then the task is paused
    dead_lettered: bool = False  # given up although a repeat might have done it
    start_by: datetime | None = None  # schedule-to-start
    expires: datetime | None = None  # schedule-to-close
    left: float | None = None  # seconds of schedule-to-close, which stands still while a person decides
    wind_up_by: datetime | None = None  # the live attempt is ended then, whatever it does
    error: TaskError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ends, and where that leaves the task; `error` is the attempt's own."""

    status: Status
    outcome: Outcome
    error: TaskError | None = None


def submitted(
    now: datetime,
    start_within: float | None = None,
    end_within: float | None = None,
    *,
    run_after: datetime | None = None,
) -> Status:
    """A task's first status; with the seconds of schedule-to-start and schedule-to-close."""
    starts = max(now, run_after or now)
    return Status(
        state=TaskState.SUBMITTED,
        wait_reason=WaitReason.SCHEDULED if starts > now else WaitReason.QUEUED,
        run_after=starts,
        start_by=_in(start_within, starts),
        expires=_in(end_within, now),
    )


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
    failed = replace(_survived(status), failures=status.failures + 1, error=error)
    if not error.retryable or not policy.repeats(error.error_class):
        return Ending(status=_moved(failed, Move.FAIL), outcome=Outcome.FAILED, error=error)
    wait = back_off(policy, failures=failed.failures, told=told, chance=chance)
    again = now + timedelta(seconds=wait)
    if failed.failures >= policy.max_failures or (status.expires is not None and again >= status.expires):
        return Ending(status=_given_up(failed, Move.FAIL, error), outcome=Outcome.FAILED, error=error)
    if status.pausing:
        return Ending(status=_parked(failed, Move.PAUSE, now), outcome=Outcome.FAILED, error=error)
    waiting = replace(_moved(failed, Move.RETRY), wait_reason=WaitReason.RETRY_BACKOFF, run_after=again)
    return Ending(status=waiting, outcome=Outcome.FAILED, error=error)


def release(status: Status, *, now: datetime) -> Ending:
    """The worker gives the task back unharmed."""
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(status, Move.WIND_UP), outcome=Outcome.CANCELED)
    survived = _survived(status)
    if status.pausing:
        return Ending(status=_parked(survived, Move.PAUSE, now), outcome=Outcome.PAUSED)
    return Ending(status=_queued(survived), outcome=Outcome.RELEASED)


def lose(status: Status, *, blamed: bool, died: bool = True, now: datetime) -> Ending:
    """The worker is gone: the task runs again at once, unless it has brought down too many.

    `blamed` says that the worker's death is put down to this task; `died` is False for one that just gave up.
    """
    losses = status.losses + died
    lost = replace(status, crashes=status.crashes + blamed, losses=losses, suspect=losses >= SUSPECT_LOSSES)
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(lost, Move.WIND_UP), outcome=Outcome.LOST)
    if lost.crashes >= MAX_CRASHES:
        poison = TaskError(
            error_class=POISON, message=f"{lost.crashes} workers died while they ran this task"
        )
        return Ending(status=_given_up(lost, Move.FAIL, poison), outcome=Outcome.LOST, error=poison)
    if status.pausing:
        return Ending(status=_parked(lost, Move.PAUSE, now), outcome=Outcome.LOST)
    return Ending(status=_queued(lost), outcome=Outcome.LOST)


def end_overdue(
    status: Status,
    *,
    close_by: datetime | None,
    seconds: Mapping[Timeout, float | None],
    policy: RetryPolicy,
    now: datetime,
    chance: float,
) -> Ending | Status | None:
    """What becomes of a task on which a clock has run out; None when none has.

    The first that applies decides, the hardest first. `close_by` is start-to-close of the live attempt;
    `seconds` are what the clocks were set to.
    """
    if _passed(status.wind_up_by, now):
        return _forced(status, now)
    if _passed(status.expires, now):
        error = _timed_out(Timeout.SCHEDULE_TO_CLOSE, seconds, "the task did not end")
        given_up = _given_up(status, Move.EXPIRE, error)
        return Ending(status=given_up, outcome=Outcome.FAILED, error=error) if status.state.live else given_up
    if _passed(status.start_by, now):
        error = _timed_out(Timeout.SCHEDULE_TO_START, seconds, "no attempt began")
        return _given_up(status, Move.EXPIRE, error)
    if status.state.live and _passed(close_by, now):
        error = _timed_out(Timeout.START_TO_CLOSE, seconds, "the attempt did not end")
        return fail(status, replace(error, retryable=True), policy=policy, now=now, chance=chance)
    return None


def cancel(status: Status, *, now: datetime, grace: float) -> Status:
    """Somebody wants it to end; a task that is ending or has been ended so stays as it is.

    A live attempt is given `grace` seconds to wind up.
    """
    if status.state in (TaskState.CANCELING, TaskState.CANCELED):
        return status
    canceled = _moved(status, Move.CANCEL)
    if canceled.state is TaskState.CANCELED:
        return canceled
    # From here on only the grace counts.
    return replace(canceled, pausing=False, expires=None, wind_up_by=now + timedelta(seconds=grace))


def pause(status: Status, *, now: datetime, grace: float) -> Status:
    """Somebody wants it to stand still: at once, or when its live attempt has wound up.

    That is given `grace` seconds for it.
    """
    if status.state is TaskState.PAUSED or status.pausing:
        return status
    if status.state is TaskState.RUNNING:
        return replace(status, pausing=True, wind_up_by=now + timedelta(seconds=grace))
    return _parked(status, Move.PAUSE, now)


def resume(status: Status, *, now: datetime, start_within: float | None) -> Status:
    """A paused task goes on, and one that is about to pause stays; a task that runs or waits stays as it is.

    `start_within` are the seconds of schedule-to-start, which count anew for a task that never started; such
    a task still waits for the time it was submitted for.
    """
    if status.pausing:
        return replace(status, pausing=False, wind_up_by=None)
    if status.state in (TaskState.SUBMITTED, TaskState.RUNNING):
        return status
    resumed = _unparked(status, Move.RESUME, now)
    if status.attempt:
        return resumed
    if status.run_after > now:
        resumed = replace(resumed, wait_reason=WaitReason.SCHEDULED, run_after=status.run_after)
    return replace(resumed, start_by=_in(start_within, max(now, status.run_after)))


def request_input(status: Status, kind: InputKind, *, now: datetime) -> Ending:
    """The attempt needs a person's answer and gives up its slot until it comes."""
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(status, Move.WIND_UP), outcome=Outcome.CANCELED)
    survived = _survived(status)
    if status.pausing:
        return Ending(status=_parked(survived, Move.PAUSE, now), outcome=Outcome.PARKED)
    parked = replace(_parked(survived, Move.REQUEST_INPUT, now), input_kind=kind)
    return Ending(status=parked, outcome=Outcome.PARKED)


def provide_input(status: Status, *, now: datetime) -> Status:
    """The answer has come."""
    return _unparked(status, Move.PROVIDE_INPUT, now)


def _in(seconds: float | None, now: datetime) -> datetime | None:
    return now + timedelta(seconds=seconds) if seconds is not None else None


def _passed(time: datetime | None, now: datetime) -> bool:
    return time is not None and time <= now


def _timed_out(timeout: Timeout, seconds: Mapping[Timeout, float | None], said: str) -> TaskError:
    limit = seconds.get(timeout)
    within = f" within {limit:g} s" if limit is not None else " in time"
    return TaskError(error_class=timeout.error_class, message=f"{said}{within}", timeout=timeout)


def _forced(status: Status, now: datetime) -> Ending:
    """The attempt has not wound up in the time it was given."""
    if status.state is TaskState.CANCELING:
        error = TaskError(error_class=CANCEL_FORCED, message="the worker did not wind up in time")
        canceled = replace(_moved(status, Move.WIND_UP), error=error)
        return Ending(status=canceled, outcome=Outcome.CANCELED, error=error)
    error = TaskError(error_class=PAUSE_FORCED, message="the attempt did not come to a step in time")
    return Ending(status=_parked(status, Move.PAUSE, now), outcome=Outcome.PAUSED, error=error)


def blamed(aboard: Sequence[Status]) -> int | None:
    """The place of the task that a worker's death is put down to; None when that cannot be told.

    No worker holds two suspects: so it is the only one, or the only task at all.
    """
    if len(aboard) == 1:
        return 0
    suspects = [place for place, status in enumerate(aboard) if status.suspect]
    return suspects[0] if len(suspects) == 1 else None


def await_children(status: Status, *, now: datetime) -> Ending:
    """The attempt can do nothing more before a child task ends, and gives up its slot until then."""
    if status.state is TaskState.CANCELING:
        return Ending(status=_moved(status, Move.WIND_UP), outcome=Outcome.CANCELED)
    survived = _survived(status)
    if status.pausing:
        return Ending(status=_parked(survived, Move.PAUSE, now), outcome=Outcome.PARKED)
    waiting = replace(_moved(survived, Move.AWAIT_CHILDREN), wait_reason=WaitReason.CHILDREN, run_after=NEVER)
    return Ending(status=waiting, outcome=Outcome.PARKED)


def child_ended(status: Status) -> Status:
    """A child task that it waited for has ended; a task that does not wait for children stays as it is."""
    if status.wait_reason is not WaitReason.CHILDREN:
        return status
    return replace(_moved(status, Move.CHILD_ENDED), wait_reason=WaitReason.QUEUED, run_after=AHEAD)


def _survived(status: Status) -> Status:
    return replace(status, losses=0, suspect=False)


def _queued(status: Status) -> Status:
    return replace(_moved(status, Move.REQUEUE), wait_reason=WaitReason.QUEUED)


def _given_up(status: Status, move: Move, error: TaskError) -> Status:
    return replace(_moved(status, move), error=error, dead_lettered=True)


def _parked(status: Status, move: Move, now: datetime) -> Status:
    left = max(0.0, (status.expires - now).total_seconds()) if status.expires is not None else status.left
    return replace(_moved(status, move), expires=None, left=left)


def _unparked(status: Status, move: Move, now: datetime) -> Status:
    moved = _moved(status, move)
    return replace(
        moved, wait_reason=WaitReason.QUEUED, run_after=AHEAD, expires=_in(status.left, now), left=None
    )


def _moved(status: Status, move: Move) -> Status:
    target = LEGAL.get((status.state, move))
    if target is None:
        raise IllegalMoveError(status.state, move)
    moved = replace(status, state=target, wait_reason=None, input_kind=None, start_by=None)
    if not target.live:
        moved = replace(moved, pausing=False, wind_up_by=None)
    if target.terminal:
        moved = replace(_survived(moved), expires=None, left=None)
    return moved
