"""What can go wrong in the orchestrator, each with its reason and its fix."""

import uuid
from collections.abc import Collection

from interlock.common.v1.errors_pb2 import ErrorReason
from orchestrator_svc.lifecycle import TaskState
from svc_kit.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Violation,
    invalid,
)
from svc_kit.identity import Role

_RETRY_SECONDS = 1.0


def task_not_found(task_id: uuid.UUID) -> NotFound:
    """No such task in the caller's tenant."""
    return NotFound(
        ErrorReason.ERROR_REASON_TASK_NOT_FOUND, f"no task {task_id}", metadata={"task_id": str(task_id)}
    )


def task_state(task_id: uuid.UUID, state: TaskState, said: str) -> FailedPrecondition:
    """The task is not in a state that allows this."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_TASK_STATE,
        f"task {task_id} is {state}: {said}",
        metadata={"task_id": str(task_id), "state": str(state)},
    )


def input_already_provided(task_id: uuid.UUID, input_id: str) -> FailedPrecondition:
    """The request has another answer."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_INPUT_ALREADY_PROVIDED,
        f"input {input_id!r} of task {task_id} has another answer already",
        metadata={"task_id": str(task_id), "input_id": input_id},
    )


def approval_forbidden(task_id: uuid.UUID, input_id: str) -> PermissionDenied:
    """Only the gateway says what was decided."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_ROLE_REQUIRED,
        f"input {input_id!r} of task {task_id} is an approval, which is decided at the gateway",
        metadata={"method": "ProvideInput", "needs": str(Role.SERVICE)},
        help="decide the approval itself; the task then goes on",
    )


def agent_not_found(agent: str) -> NotFound:
    """No such agent, or none that can run."""
    return NotFound(
        ErrorReason.ERROR_REASON_AGENT_NOT_FOUND,
        f"no agent named {agent!r} with a published version",
        metadata={"agent": agent},
    )


def agent_version_not_found(agent: str, version: str) -> NotFound:
    """No such version of the agent."""
    return NotFound(
        ErrorReason.ERROR_REASON_AGENT_VERSION_NOT_FOUND,
        f"agent {agent!r} has no version {version!r}",
        metadata={"agent": agent, "version": version},
    )


def input_schema_unusable(agent: str, version: str, said: str) -> InvalidArgument:
    """No input can be checked for this agent version."""
    message = f"the input schema of agent {agent!r} {version} cannot be used: {said}"
    return InvalidArgument(
        ErrorReason.ERROR_REASON_SCHEMA_INVALID,
        message,
        metadata={"agent": agent, "agent_version": version},
        violations=[Violation("agent", message)],
        help="publish a version of the agent whose input schema compiles",
    )


def agent_not_active(agent: str) -> FailedPrecondition:
    """The agent takes no new tasks."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_NOT_ACTIVE,
        f"agent {agent!r} is disabled",
        metadata={"agent": agent},
        help="a SUPER_ADMIN can set its status to ACTIVE",
    )


def request_id_reused(request_id: uuid.UUID) -> AlreadyExists:
    """The request id came before, with another body."""
    return AlreadyExists(
        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
        f"request id {request_id} was used with another body",
        metadata={"request_id": str(request_id)},
        help="make a new UUID for every new request; repeat a request unchanged",
    )


def registry_unavailable() -> Unavailable:
    """What the registry knows is not known here."""
    return Unavailable(
        ErrorReason.ERROR_REASON_REGISTRY_UNAVAILABLE,
        "the registry cannot be reached",
        retry_after=_RETRY_SECONDS,
    )


def pool_forbidden(pool: str) -> PermissionDenied:
    """The worker's token does not name the pool."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_POOL_FORBIDDEN,
        f"this worker's token does not name pool {pool!r}",
        metadata={"pool": pool},
    )


def session_not_found(session_id: uuid.UUID) -> NotFound:
    """No such session of this worker, or it has ended."""
    return NotFound(
        ErrorReason.ERROR_REASON_SESSION_NOT_FOUND,
        f"no session {session_id}, or it has ended",
        metadata={"session_id": str(session_id)},
        help="stop every attempt of that session and open a new one",
    )


def stale_attempt(task_id: uuid.UUID, attempt: int) -> Aborted:
    """The attempt is not the live one."""
    return Aborted(
        ErrorReason.ERROR_REASON_STALE_ATTEMPT,
        f"attempt {attempt} of task {task_id} is not live any more; stop working on it",
        metadata={"task_id": str(task_id), "attempt": str(attempt)},
    )


def blob_not_found(named: str) -> NotFound:
    """No such document, or not this caller's."""
    return NotFound(
        ErrorReason.ERROR_REASON_BLOB_NOT_FOUND,
        f"there is no blob {named or 'here'}",
        metadata={"digest": named},
        help="PutBlob stores it; one that no task refers to is kept for an hour",
    )


def blob_quota(limit: int) -> ResourceExhausted:
    """The tenant's documents are too many."""
    return ResourceExhausted(
        ErrorReason.ERROR_REASON_BLOB_QUOTA,
        f"the tenant may store {limit} bytes of blobs, and would store more",
        metadata={"limit": str(limit)},
        help="raise INTERLOCK_ORCHESTRATOR_BLOB_BYTES_PER_TENANT, or store less",
    )


def step_not_found(task_id: uuid.UUID, step_key: str, said: str) -> NotFound:
    """No such step, or not in that attempt."""
    return NotFound(
        ErrorReason.ERROR_REASON_STEP_NOT_FOUND,
        f"step {step_key!r} of task {task_id} {said}",
        metadata={"task_id": str(task_id), "step_key": step_key},
    )


def nondeterminism(step_key: str, said: str) -> FailedPrecondition:
    """The agent does something else than an earlier run of it did."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_NONDETERMINISM,
        f"step {step_key!r} {said}",
        metadata={"step_key": step_key},
        help="an agent must repeat its steps with the same keys and inputs in every attempt",
    )


def tool_not_bound(agent: str, tool: str) -> PermissionDenied:
    """The agent version does not list the tool, or the tool does not exist; both answer alike."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_TOOL_NOT_BOUND,
        f"agent {agent!r} has no binding for tool {tool!r}",
        metadata={"agent": agent, "tool": tool},
    )


def connection_not_bound(agent: str, connection: str) -> PermissionDenied:
    """The agent version names another connection, or none."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_CONNECTION_NOT_BOUND,
        f"agent {agent!r} does not name connection {connection!r}",
        metadata={"agent": agent, "connection": connection},
    )


def child_too_deep(depth: int, limit: int) -> FailedPrecondition:
    """Agents hand work on and on."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_CHILD_TOO_DEEP,
        f"the child task would stand {depth} tasks below its root, more than the {limit} allowed",
        metadata={"depth": str(depth), "limit": str(limit)},
        help="let the agent do the work itself, or submit it from higher up",
    )


def too_many_children(scope: str, limit: int) -> FailedPrecondition:
    """`scope` is `parent`, or `root` for the whole tree."""
    whose = "the task" if scope == "parent" else "the tree of tasks"
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_TOO_MANY_CHILDREN,
        f"{whose} has {limit} child tasks already, and more are not allowed",
        metadata={"scope": scope, "limit": str(limit)},
        help="give each child task more of the work",
    )


def receipt_mismatch(said: str) -> PermissionDenied:
    """The receipt is a good one, of something else."""
    return PermissionDenied(ErrorReason.ERROR_REASON_SIGNATURE_INVALID, f"the receipt {said}")


def revision_beyond(revision: int, last: int) -> OutOfRange:
    """The watcher knows more than the task has."""
    return OutOfRange(
        ErrorReason.ERROR_REASON_CURSOR_INVALID,
        f"revision {revision} is beyond the task's last one, {last}",
        metadata={"after_revision": str(revision), "revision": str(last)},
        help="watch again with after_revision 0",
    )


def revision_compacted(task_id: uuid.UUID, revision: int, compact: int) -> OutOfRange:
    """What follows the watcher's revision is gone."""
    return OutOfRange(
        ErrorReason.ERROR_REASON_REVISION_COMPACTED,
        f"events up to revision {compact} of task {task_id} are no longer kept, and {revision} is before it",
        metadata={"after_revision": str(revision), "compact_revision": str(compact)},
        help="watch again with after_revision 0",
    )


def log_replaced() -> OutOfRange:
    """The watch stands in a history that is no longer the database's."""
    return OutOfRange(
        ErrorReason.ERROR_REASON_CURSOR_INVALID,
        "the database was restored to an earlier time: what was seen may not have happened",
        help="begin again with a snapshot",
    )


def cursor_compacted() -> OutOfRange:
    """What follows the cursor is gone, at least in part."""
    return OutOfRange(
        ErrorReason.ERROR_REASON_REVISION_COMPACTED,
        "not everything that follows the cursor is still kept",
        help="begin again without a cursor",
    )


def slow_consumer(revision: int) -> ResourceExhausted:
    """The watcher takes less than comes."""
    return _slow(f"revision {revision}", after_revision=str(revision))


def slow_list_consumer(cursor: str) -> ResourceExhausted:
    """The same for a list; without a cursor its snapshot was not complete."""
    return _slow("the cursor" if cursor else "a fresh snapshot", cursor=cursor)


def _slow(where: str, **metadata: str) -> ResourceExhausted:
    return ResourceExhausted(
        ErrorReason.ERROR_REASON_SLOW_CONSUMER,
        f"the events are not taken fast enough; resume after {where}",
        metadata=metadata,
        retry_after=0.0,
    )


def payloads_forbidden(needed: Collection[Role]) -> PermissionDenied:
    """The caller may see steps, not what went in and out of them."""
    listed = ", ".join(sorted(needed))
    return PermissionDenied(
        ErrorReason.ERROR_REASON_ROLE_REQUIRED,
        f"inputs and outputs of steps need one of {listed}",
        metadata={"method": "ListTaskSteps", "needs": listed.replace(" ", "")},
        help="list the steps without include_payloads",
    )


def queue_not_found(queue: str) -> NotFound:
    """No such queue in the caller's tenant."""
    return NotFound(
        ErrorReason.ERROR_REASON_QUEUE_NOT_FOUND,
        f"no queue named {queue!r}",
        metadata={"queue": queue},
        help="an ADMIN can create it",
    )


def queue_full(queue: str, limit: int) -> ResourceExhausted:
    """As many tasks wait as the queue takes."""
    return ResourceExhausted(
        ErrorReason.ERROR_REASON_QUEUE_FULL,
        f"{limit} tasks wait in queue {queue!r}, as many as it takes",
        metadata={"queue": queue, "limit": str(limit)},
        retry_after=_RETRY_SECONDS,
    )


def concurrency_key_busy(queue: str, key: str, limit: int) -> FailedPrecondition:
    """The key is at its limit, and the request asked to be refused then."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_CONCURRENCY_KEY_BUSY,
        f"{limit} tasks of concurrency key {key!r} in queue {queue!r} have not ended",
        metadata={"queue": queue, "concurrency_key": key, "limit": str(limit)},
        help="submit again when one has ended, or with another strategy",
    )


def queue_exists(queue: str) -> AlreadyExists:
    """The name is taken."""
    return AlreadyExists(
        ErrorReason.ERROR_REASON_NAME_TAKEN, f"queue {queue!r} exists", metadata={"queue": queue}
    )


def queue_is_permanent() -> InvalidArgument:
    """The queue `default` is there for every tenant."""
    return invalid([Violation("name", "the queue 'default' stays; pause or purge it instead")])


def queue_not_empty(queue: str) -> FailedPrecondition:
    """Tasks of the queue have not ended."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_QUEUE_NOT_EMPTY,
        f"tasks of queue {queue!r} have not ended",
        metadata={"queue": queue},
        help="purge it, and wait for what runs or is parked, or cancel it",
    )


def queue_stale(queue: str) -> Aborted:
    """Somebody changed it since the etag was read."""
    return Aborted(
        ErrorReason.ERROR_REASON_ETAG_MISMATCH,
        f"queue {queue!r} changed since its etag was read",
        metadata={"queue": queue},
        help="read it again, and decide again",
    )


def worker_not_found(session_id: uuid.UUID) -> NotFound:
    """No such worker serves the tenant."""
    return NotFound(
        ErrorReason.ERROR_REASON_WORKER_NOT_FOUND,
        f"no worker with session {session_id} serves this tenant",
        metadata={"session_id": str(session_id)},
        help="ListWorkers shows who does; a worker that was started anew has another session",
    )


def worker_alive(session_id: uuid.UUID) -> FailedPrecondition:
    """The worker is heard."""
    return FailedPrecondition(
        ErrorReason.ERROR_REASON_WORKER_ALIVE,
        f"the worker of session {session_id} is heard",
        metadata={"session_id": str(session_id)},
        help="only a SILENT worker can be taken for dead; DrainWorker has this one take nothing more",
    )


def worker_shared(session_id: uuid.UUID) -> PermissionDenied:
    """The worker serves other tenants too."""
    return PermissionDenied(
        ErrorReason.ERROR_REASON_TENANT_FORBIDDEN,
        f"the worker of session {session_id} serves other tenants too",
        metadata={"session_id": str(session_id)},
        help="a SUPER_ADMIN of tenant 'system' can do it",
    )


def too_many_metrics(what: str, most: int, instead: str) -> ResourceExhausted:
    """More than one answer about tasks over time may hold."""
    return ResourceExhausted(
        ErrorReason.ERROR_REASON_LIMIT_EXCEEDED,
        f"these are more than {most:,} {what}",
        metadata={"limit": str(most)},
        help=f"ask for {instead}",
    )
