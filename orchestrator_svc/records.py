"""What the orchestrator stores."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum

from orchestrator_svc.lifecycle import InputKind, Outcome, Status, TaskError, TaskState, Timeout, WaitReason
from orchestrator_svc.placement import Placement, Start
from orchestrator_svc.retry import RetryPolicy

POOL = "default"

# Tenant and id of a task.
TaskKey = tuple[str, uuid.UUID]


class Isolation(StrEnum):
    """How an agent's own code is held."""

    PLAN = "PLAN"  # it has none
    TRUSTED = "TRUSTED"  # it runs in the worker's process
    SANDBOXED = "SANDBOXED"  # it runs in a sandbox of the worker


class StepKind(StrEnum):
    """What a step does."""

    TOOL_CALL = "TOOL_CALL"
    MODEL_CALL = "MODEL_CALL"
    CHILD_TASK = "CHILD_TASK"


class ClosePolicy(StrEnum):
    """What becomes of a child task when its parent ends before it."""

    CANCEL = "CANCEL"
    ABANDON = "ABANDON"


class StepStatus(StrEnum):
    """How far a step is."""

    STARTED = "STARTED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    REFUSED = "REFUSED"

    @property
    def final(self) -> bool:
        """Whether every later attempt takes the stored outcome.

        A refused call had no effect, so a later attempt may ask again.
        """
        return self in (StepStatus.COMPLETED, StepStatus.FAILED)


class EventType(StrEnum):
    """What kind of change an event is."""

    STATE_CHANGED = "STATE_CHANGED"
    STEP_STARTED = "STEP_STARTED"
    STEP_FINISHED = "STEP_FINISHED"
    PAUSE_REQUESTED = "PAUSE_REQUESTED"
    PAUSE_WITHDRAWN = "PAUSE_WITHDRAWN"
    INPUT_PROVIDED = "INPUT_PROVIDED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitter:
    """Who submitted a task, as the gateway's policies will see them."""

    tenant: str
    subject: str
    roles: tuple[str, ...]
    agent: str = ""  # of a child task: the agent above it
    agent_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What model calls have used up; the cost is in millionths of a currency."""

    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        """Both together."""
        return Usage(
            model_calls=self.model_calls + other.model_calls,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cost_micros=self.cost_micros + other.cost_micros,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a task stands in its tree; `root` is None at the top, where there is no parent either."""

    parent: uuid.UUID | None = None
    root: uuid.UUID | None = None
    depth: int = 0
    close_policy: ClosePolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPin:
    """The agent version that a task runs, and what of it the orchestrator needs. Times in seconds."""

    name: str
    version: str
    digest: str
    isolation: Isolation
    retry: RetryPolicy
    start_to_close: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a task may take beside the time of each attempt; in seconds, None = for ever."""

    schedule_to_start: float | None = None
    schedule_to_close: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestKey:
    """By which a repeated request is known; `digest` is over its body."""

    subject: str
    method: str
    request_id: uuid.UUID
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task about to be stored."""

    task_id: uuid.UUID
    tenant: str
    agent: AgentPin
    task_type: str
    input_json: str = field(repr=False)  # canonical; empty where there is a blob
    labels: Mapping[str, str]
    submitters: tuple[Submitter, ...]  # whoever submitted it, then those of the tasks above it
    traceparent: str = ""
    retried_from: uuid.UUID | None = None
    from_step: str = ""  # of `retried_from`: it begins anew with this step
    step_count: int = 0  # and takes over the finished ones of so many before it
    timeouts: Timeouts = field(default_factory=Timeouts)
    request: RequestKey | None = None
    placement: Placement = field(default_factory=Placement)
    start: Start = field(default_factory=Start)
    lineage: Lineage = field(default_factory=Lineage)
    input_blob: str | None = None  # its digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the database gave a new task; `ready` says that it may run at once."""

    create_time: datetime
    run_after: datetime
    pool: str
    ready: bool


class NotPlaced(Enum):
    """A new task that was not stored: its queue has to be asked first."""

    NOT_PLACED = "NOT_PLACED"


NOT_PLACED = NotPlaced.NOT_PLACED


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A stored task without input and result."""

    task_id: uuid.UUID
    tenant: str
    agent: AgentPin
    task_type: str
    labels: Mapping[str, str]
    submitters: tuple[Submitter, ...]
    retried_from: uuid.UUID | None
    status: Status
    revision: int
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    timeouts: Timeouts = field(default_factory=Timeouts)
    placement: Placement = field(default_factory=Placement)
    pool: str = POOL
    from_step: str = ""
    lineage: Lineage = field(default_factory=Lineage)
    input_blob: str | None = None
    usage: Usage | None = None
    erase_time: datetime | None = None

    @property
    def submitter(self) -> str:
        """Subject of whoever submitted it."""
        return self.submitters[0].subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What an attempt last said of itself; `done` is a share, 0 to 1."""

    attempt: int
    number: int
    message: str
    done: float | None
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One claim of a task by one worker."""

    attempt: int
    worker: str
    start_time: datetime
    end_time: datetime | None
    outcome: Outcome | None
    error: TaskError | None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequest:
    """What a task asks of a person."""

    input_id: str
    kind: InputKind
    step_key: str
    prompt: str = field(repr=False)
    schema_json: str = field(repr=False)  # empty = any JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a person said to it; `json` is canonical, and `decided` says that it is the gateway's word."""

    json: str = field(repr=False)
    subject: str
    decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInput:
    """A request for input and its answer, as far as either has come; `attempt` asked last."""

    task_id: uuid.UUID
    input_id: str
    request: InputRequest | None
    answer: Answer | None
    attempt: int
    request_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails:
    """A task with everything that belongs to it."""

    task: Task
    input_json: str = field(repr=False)  # empty where there is a blob
    result_json: str | None = field(repr=False)
    attempts: tuple[Attempt, ...]
    open_inputs: tuple[StoredInput, ...] = ()
    child_count: int = 0
    open_child_count: int = 0
    result_blob: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedTask:
    """What a decision about a task needs, read under its lock; `now` is the database's clock."""

    task_id: uuid.UUID
    tenant: str
    pool: str
    agent: AgentPin
    submitters: tuple[Submitter, ...]
    traceparent: str
    status: Status
    revision: int
    step_count: int
    session_id: uuid.UUID | None  # of the live attempt
    last_outcome: Outcome | None  # of the last attempt, once it ended
    timeouts: Timeouts = field(default_factory=Timeouts)
    close_by: datetime | None = None  # start-to-close of the live attempt
    lineage: Lineage = field(default_factory=Lineage)
    usage: Usage | None = None
    now: datetime

    @property
    def seconds(self) -> Mapping[Timeout, float | None]:
        """What each of its clocks is set to."""
        return {
            Timeout.SCHEDULE_TO_START: self.timeouts.schedule_to_start,
            Timeout.START_TO_CLOSE: self.agent.start_to_close,
            Timeout.SCHEDULE_TO_CLOSE: self.timeouts.schedule_to_close,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """What a step was begun with."""

    step_key: str
    kind: StepKind
    name: str
    input_json: str = field(repr=False)  # canonical
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One journaled action. The times are None until the database has given them."""

    task_id: uuid.UUID
    step_key: str
    kind: StepKind
    name: str
    status: StepStatus
    ordinal: int
    call_id: uuid.UUID
    input_digest: str
    input_json: str = field(repr=False)
    output_json: str | None = field(default=None, repr=False)
    error: TaskError | None = None
    attempt: int
    start_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildEnd:
    """How a child task ended."""

    task_id: uuid.UUID
    agent: str
    state: TaskState
    result_json: str | None = field(repr=False)
    error: TaskError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings:
    """How many tasks a task has submitted, and how many stand below the root of its tree."""

    children: int = 0
    tree: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMark:
    """What an event tells of its step."""

    step_key: str
    kind: StepKind
    name: str
    status: StepStatus
    ordinal: int
    call_id: uuid.UUID
    input_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change of a task."""

    task_id: uuid.UUID
    tenant: str
    revision: int
    type: EventType
    state: TaskState
    wait_reason: WaitReason | None
    attempt: int
    input_kind: InputKind | None = None
    step: StepMark | None = None
    error: TaskError | None = None
    usage: Usage | None = None  # of the task, after the event


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event with its place in the log."""

    event: Event
    position: int
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """A stored event, and the state its task was in before it.

    `was` is None for a first event, and where the event before is no longer kept.
    """

    stored: StoredEvent
    was: TaskState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of the log; what stood up to the position `edge` may be missing."""

    edge: int
    occurrences: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPlace:
    """What stands at a position (the digest of an event, if there is one), and the ends of the log."""

    log_id: uuid.UUID
    head: int
    edge: int
    event: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Asks for the events of one task after a revision."""

    tenant: str
    task_id: uuid.UUID
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One worker process's connection."""

    session_id: uuid.UUID
    subject: str
    slot: str
    incarnation: int
    pools: tuple[str, ...]
    capacity: int
    serves: tuple[tuple[str, str], ...] = ()  # tenant and pool, as its token names them; once it is stored

    @property
    def worker(self) -> str:
        """The worker's name in attempts: subject and instance."""
        return f"{self.subject} {self.slot}#{self.incarnation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRef:
    """Names one attempt of a task of one tenant."""

    tenant: str
    task_id: uuid.UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttempt:
    """What a session is told of one of its attempts; `age` is seconds since its claim."""

    state: TaskState
    age: float
    pausing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewClaim:
    """A claim id and the attempt that it was answered with."""

    claim_id: uuid.UUID
    session_id: uuid.UUID
    tenant: str
    task_id: uuid.UUID
    attempt: int


ClaimKey = tuple[uuid.UUID, uuid.UUID]  # session id, claim id


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """A worker asks for one task of `pool`; `tenants` are those its token names with that pool."""

    claim_id: uuid.UUID
    session_id: uuid.UUID
    subject: str
    pool: str
    tenants: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimer:
    """A session that asks for tasks; `suspect` says that one is aboard, `draining` that it gets no more."""

    session: Session
    suspect: bool
    draining: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A queue whose turn it is; of a `managed` one tasks are handed out under its lock."""

    pool: str
    tenant: str
    queue: str
    managed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldQueue:
    """The limits of a locked queue; `turns` are the fairness keys that had their turn last, by priority."""

    paused: bool
    max_running: int | None
    max_running_per_key: int
    tokens: int | None  # tasks that its rate lets start now; None = without limit
    turns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Which waiting tasks are asked for: up to `limit`, of no concurrency key that is full.

    `per_key` is how many of one concurrency key may run.
    """

    limit: int
    per_key: int
    turns: tuple[str, ...]
    full: tuple[str, ...]
    suspects: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Runnable:
    """A task that a worker may run, with what it needs for it; `attempt` is 0 until one has begun.

    Of those that are to be `alone` no two run in one process: one of them may bring down what it runs in.
    """

    task: LockedTask
    input_json: str = field(repr=False)
    finished_steps: tuple[str, ...]  # in the order in which they began
    attempt: int = 0
    alone: bool = False
    input_blob: str | None = None

    def begun(self, task: LockedTask) -> "Runnable":
        """The same with the attempt that has begun."""
        return replace(self, task=task, attempt=task.status.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in the list of tasks, newest first."""

    create_time: datetime
    task_id: uuid.UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubject:
    """What the audit log says of a task."""

    agent: str
    agent_version: str
    agent_digest: str
    isolation: str
    traceparent: str
    input_json: str = field(repr=False)
    result_json: str | None = field(repr=False)
    input_blob: str | None = None
    result_blob: str | None = None
