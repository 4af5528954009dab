"""Checks of what workers ask. Pure; all violations at once."""

import re
import uuid
from dataclasses import replace

from interlock.orchestrator.v1 import task_pb2, worker_service_pb2
from orchestrator_svc import uncertain
from orchestrator_svc.attempts import Await, Completion, Failure, Question
from orchestrator_svc.children import ChildRequest
from orchestrator_svc.field_checks import (
    AGENT,
    STEP_KEY,
    STEP_KEY_WANTED,
    TASK_TYPE,
    VERSION,
    digest_flaws,
    duration_seconds,
    label_flaws,
    parsed_json,
    parsed_uuid,
    raise_all,
    schema_flaws,
)
from orchestrator_svc.journal import StepFinish
from orchestrator_svc.lifecycle import InputKind, TaskError, Timeout
from orchestrator_svc.records import ClosePolicy, InputRequest, Session, StepInput, StepKind, StepStatus
from svc_kit.errors import Violation
from svc_kit.strict_json import canonical, digest

MAX_ERROR_CLASS = 128
MAX_ERROR_MESSAGE = 8192
MAX_POOLS = 32
MAX_CAPACITY = 10_000
MAX_PROMPT = 16 * 1024
MAX_AWAITED = 100
MAX_WORDS = 1000
MAX_WORD_BYTES = 2048
_CALLED = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SLOT = re.compile(r"[\x21-\x7e]{1,128}")
_INPUT_KINDS = {task_pb2.InputKind.Value(f"INPUT_KIND_{kind}"): kind for kind in InputKind}
_STEP_KINDS = {task_pb2.StepKind.Value(f"STEP_KIND_{kind}"): kind for kind in StepKind}
_CLOSE_POLICIES = {
    task_pb2.CLOSE_POLICY_UNSPECIFIED: ClosePolicy.CANCEL,
    task_pb2.CLOSE_POLICY_CANCEL: ClosePolicy.CANCEL,
    task_pb2.CLOSE_POLICY_ABANDON: ClosePolicy.ABANDON,
}
_START_TO_CLOSE = task_pb2.TIMEOUT_KIND_START_TO_CLOSE
_ENDINGS = {
    task_pb2.STEP_STATUS_COMPLETED: StepStatus.COMPLETED,
    task_pb2.STEP_STATUS_FAILED: StepStatus.FAILED,
    task_pb2.STEP_STATUS_REFUSED: StepStatus.REFUSED,
}


def session(opened: worker_service_pb2.OpenSession, *, subject: str) -> Session:
    """The session that a worker opens."""
    found: list[Violation] = []
    session_id = parsed_uuid(opened.session_id, "open.session_id", found)
    if not _SLOT.fullmatch(opened.slot):
        found.append(Violation("open.slot", "must be 1 to 128 printable characters without spaces"))
    if opened.incarnation < 0:
        found.append(Violation("open.incarnation", "must not be negative"))
    if not 1 <= len(opened.pools) <= MAX_POOLS:
        found.append(Violation("open.pools", f"must name 1 to {MAX_POOLS} pools"))
    found += [
        Violation(f"open.pools[{index}]", "must be the name of a pool")
        for index, pool in enumerate(opened.pools)
        if not _POOL.fullmatch(pool)
    ]
    if not 1 <= opened.capacity <= MAX_CAPACITY:
        found.append(Violation("open.capacity", f"must be 1 to {MAX_CAPACITY}"))
    raise_all(found)
    return Session(
        session_id=session_id,
        subject=subject,
        slot=opened.slot,
        incarnation=opened.incarnation,
        pools=tuple(opened.pools),
        capacity=opened.capacity,
    )


def claim(request: worker_service_pb2.ClaimTaskRequest) -> tuple[uuid.UUID, uuid.UUID, str]:
    """Session id, claim id and pool of a claim."""
    found: list[Violation] = []
    session_id = parsed_uuid(request.session_id, "session_id", found)
    claim_id = parsed_uuid(request.claim_id, "claim_id", found)
    if not _POOL.fullmatch(request.pool):
        found.append(Violation("pool", "must be the name of a pool"))
    raise_all(found)
    return session_id, claim_id, request.pool


def record_step(
    request: worker_service_pb2.RecordStepRequest,
) -> tuple[StepFinish | None, StepInput | None, ChildRequest | None]:
    """The step that ended, the step that begins, or both, and what its child task is given."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    begun = _begin(request.begin, found) if request.HasField("begin") else None
    child = _child(request.begin, found) if begun is not None and begun.kind is StepKind.CHILD_TASK else None
    if not request.HasField("finish") and not request.HasField("begin"):
        found.append(Violation("begin", "a step that begins, or one that ended in `finish`, is required"))
    raise_all(found)
    return finished, begun, child


def completion(
    request: worker_service_pb2.CompleteTaskRequest,
) -> tuple[StepFinish | None, Completion]:
    """The last step, if it comes along, and the result."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    if request.result_blob:
        found += digest_flaws(request.result_blob, "result_blob")
        if request.result_json:
            found.append(Violation("result_json", "excludes result_blob"))
        raise_all(found)
        return finished, Completion(result_json="", result_blob=request.result_blob)
    result = canonical(parsed_json(request.result_json, "result_json", found)).decode()
    raise_all(found)
    return finished, Completion(result_json=result)


def failure(request: worker_service_pb2.FailTaskRequest) -> tuple[StepFinish | None, Failure]:
    """The last step, if it comes along, and what went wrong."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    error = _error(request.error, "error", found)
    told = (
        duration_seconds(request.retry_delay, "retry_delay", found)
        if request.HasField("retry_delay")
        else 0.0
    )
    raise_all(found)
    return finished, Failure(error=error, told=told)


def release(request: worker_service_pb2.ReleaseTaskRequest) -> StepFinish | None:
    """The last step, if it comes along."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    raise_all(found)
    return finished


def question(request: worker_service_pb2.RequestInputRequest) -> tuple[StepFinish | None, Question]:
    """The last step, if it comes along, and what a person is asked."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    kind = _INPUT_KINDS.get(request.kind)
    if not STEP_KEY.fullmatch(request.input_id):
        found.append(Violation("input_id", STEP_KEY_WANTED))
    if kind is None:
        found.append(Violation("kind", f"must be one of {', '.join(InputKind)}"))
    if request.step_key and not STEP_KEY.fullmatch(request.step_key):
        found.append(Violation("step_key", STEP_KEY_WANTED))
    if len(request.prompt) > MAX_PROMPT or "\0" in request.prompt:
        found.append(Violation("prompt", f"must be at most {MAX_PROMPT} characters, without NUL"))
    found += schema_flaws(request.schema_json, "schema_json")
    schema = request.schema_json
    if kind is InputKind.UNCERTAIN_STEP:
        schema = uncertain.SCHEMA_JSON
        if not request.step_key or not request.input_id.startswith(uncertain.PREFIX):
            found.append(Violation("input_id", f"must be {uncertain.PREFIX} and the call id of `step_key`"))
        if request.schema_json:
            found.append(Violation("schema_json", "must be empty: what may be said of a step is fixed"))
    raise_all(found)
    return finished, Question(
        request=InputRequest(
            input_id=request.input_id,
            kind=kind or InputKind.QUESTION,
            step_key=request.step_key,
            prompt=request.prompt,
            schema_json=schema,
        )
    )


def progress(request: worker_service_pb2.EmitProgressRequest) -> None:
    """What attempts say of themselves."""
    found: list[Violation] = []
    if len(request.progress) > MAX_WORDS:
        found.append(Violation("progress", f"at most {MAX_WORDS} at a time"))
    for place, said in enumerate(request.progress[:MAX_WORDS]):
        where = f"progress[{place}]"
        if said.number < 1:
            found.append(Violation(f"{where}.number", "must be at least 1"))
        if len(said.message.encode()) > MAX_WORD_BYTES or "\0" in said.message:
            found.append(
                Violation(f"{where}.message", f"must be at most {MAX_WORD_BYTES} bytes, without NUL")
            )
        if not 0 <= said.done <= 1:
            found.append(Violation(f"{where}.done", "must be 0 to 1"))
    raise_all(found)


def awaiting(request: worker_service_pb2.AwaitChildrenRequest) -> tuple[StepFinish | None, Await]:
    """The last step, if it comes along, and the steps whose child tasks are awaited."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    if not 1 <= len(request.step_keys) <= MAX_AWAITED:
        found.append(Violation("step_keys", f"must name 1 to {MAX_AWAITED} steps"))
    found += [
        Violation(f"step_keys[{index}]", STEP_KEY_WANTED)
        for index, key in enumerate(request.step_keys)
        if not STEP_KEY.fullmatch(key)
    ]
    raise_all(found)
    return finished, Await(step_keys=tuple(dict.fromkeys(request.step_keys)))


def _finish(finished: worker_service_pb2.FinishStep, found: list[Violation]) -> StepFinish | None:
    status = _ENDINGS.get(finished.status)
    if not STEP_KEY.fullmatch(finished.step_key):
        found.append(Violation("finish.step_key", STEP_KEY_WANTED))
    if status is None:
        found.append(Violation("finish.status", "must be COMPLETED, FAILED or REFUSED"))
        return None
    if status is not StepStatus.REFUSED and not finished.HasField("receipt"):
        found.append(Violation("finish.receipt", f"is required for a step that is {status}"))
    if status is StepStatus.COMPLETED:
        # Kept as it came: the gateway's receipt is over these very bytes.
        parsed_json(finished.output_json, "finish.output_json", found)
        return StepFinish(step_key=finished.step_key, status=status, output_json=finished.output_json)
    return StepFinish(
        step_key=finished.step_key, status=status, error=_error(finished.error, "finish.error", found)
    )


def _begin(begun: worker_service_pb2.BeginStep, found: list[Violation]) -> StepInput:
    if not STEP_KEY.fullmatch(begun.step_key):
        found.append(Violation("begin.step_key", STEP_KEY_WANTED))
    kind = _STEP_KINDS.get(begun.kind)
    if kind is None:
        found.append(Violation("begin.kind", f"must be one of {', '.join(StepKind)}"))
    if kind is StepKind.CHILD_TASK and not AGENT.fullmatch(begun.name):
        found.append(Violation("begin.name", "must be the name of an agent: 1 to 63 of a-z, 0-9 and -"))
    elif not _CALLED.fullmatch(begun.name):
        found.append(Violation("begin.name", "must be the name of a tool, or of a connection"))
    if begun.HasField("child") and kind is not StepKind.CHILD_TASK:
        found.append(Violation("begin.child", "is for a CHILD_TASK"))
    count = len(found)
    value = parsed_json(begun.input_json, "begin.input_json", found)
    if len(found) == count and not isinstance(value, dict):
        found.append(Violation("begin.input_json", "must be a JSON object"))
    written = canonical(value)
    return StepInput(
        step_key=begun.step_key,
        kind=kind or StepKind.TOOL_CALL,
        name=begun.name,
        input_json=written.decode(),
        digest=digest(written),
    )


def _child(begun: worker_service_pb2.BeginStep, found: list[Violation]) -> ChildRequest:
    child = begun.child
    if child.agent_version and not VERSION.fullmatch(child.agent_version):
        found.append(
            Violation("begin.child.agent_version", "must be a version such as 1.2.0, or empty for the newest")
        )
    if not TASK_TYPE.fullmatch(child.task_type):
        found.append(Violation("begin.child.task_type", "must be at most 64 letters, digits, _, . and -"))
    policy = _CLOSE_POLICIES.get(child.close_policy)
    if policy is None:
        found.append(Violation("begin.child.close_policy", f"must be one of {', '.join(ClosePolicy)}"))
    found += [replace(each, field=f"begin.child.{each.field}") for each in label_flaws(child.labels)]
    return ChildRequest(
        agent_version=child.agent_version,
        task_type=child.task_type,
        labels=dict(child.labels),
        close_policy=policy or ClosePolicy.CANCEL,
    )


def _error(error: task_pb2.TaskError, field: str, found: list[Violation]) -> TaskError:
    if not 1 <= len(error.error_class) <= MAX_ERROR_CLASS or not error.error_class.isprintable():
        found.append(
            Violation(f"{field}.error_class", f"must be 1 to {MAX_ERROR_CLASS} printable characters")
        )
    if error.timeout_kind not in (task_pb2.TIMEOUT_KIND_UNSPECIFIED, _START_TO_CLOSE):
        found.append(Violation(f"{field}.timeout_kind", "must be START_TO_CLOSE, or none"))
    if error.step_key and not STEP_KEY.fullmatch(error.step_key):
        found.append(Violation(f"{field}.step_key", STEP_KEY_WANTED))
    return TaskError(
        error_class=error.error_class,
        # A failure has to be told whatever its text: it is cut and cleaned, not refused.
        message=error.message.replace("\0", "\ufffd")[:MAX_ERROR_MESSAGE],
        step_key=error.step_key,
        retryable=error.retryable,
        # The one clock that a worker keeps too.
        timeout=Timeout.START_TO_CLOSE if error.timeout_kind == _START_TO_CLOSE else None,
    )
