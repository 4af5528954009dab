"""Checks of requests that need nothing but the request. Pure; all violations at once."""

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace

from google.protobuf.duration_pb2 import Duration

from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2, worker_service_pb2
from orchestrator_svc import placement_checks, uncertain
from orchestrator_svc.attempts import Await, Completion, Failure, Question
from orchestrator_svc.children import ChildRequest
from orchestrator_svc.journal import StepFinish
from orchestrator_svc.lifecycle import InputKind, TaskError, Timeout
from orchestrator_svc.overrides import overrides
from orchestrator_svc.records import ClosePolicy, InputRequest, Session, StepInput, StepKind, StepStatus
from orchestrator_svc.submissions import Submission
from svc_kit.errors import InvalidArgument, Violation, invalid
from svc_kit.json_schema import SchemaUnusable, compile_schema
from svc_kit.strict_json import JsonValue, canonical, digest, parse, struct_to_json

MAX_LABELS = 32
MAX_LABEL_CHARACTERS = 255
MAX_ERROR_CLASS = 128
MAX_ERROR_MESSAGE = 8192
MAX_POOLS = 32
MAX_CAPACITY = 10_000
MAX_WAIT_SECONDS = 300.0
DEFAULT_WAIT_SECONDS = 30.0
MAX_COUNT = 100_000
DEFAULT_COUNT = 10_000
MAX_WATCHED_TASKS = 10_000
MAX_TOLD_SECONDS = 7 * 24 * 3600.0
REDRIVEN = 100
MAX_REDRIVEN = 500
MAX_PROMPT = 16 * 1024
MAX_SCHEMA = 64 * 1024
MAX_AWAITED = 100
MAX_WORDS = 1000
MAX_WORD_BYTES = 2048

_AGENT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,64}")
_TASK_TYPE = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_LABEL = re.compile(r"[a-z0-9_.-]{1,63}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_STEP_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_CALLED = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_SLOT = re.compile(r"[\x21-\x7e]{1,128}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NIL = uuid.UUID(int=0)
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


def task_id(text: str) -> uuid.UUID:
    """The id of a task."""
    found: list[Violation] = []
    parsed = _uuid(text, "task_id", found)
    _raise(found)
    return parsed


def watched(request: orchestrator_service_pb2.WatchAttemptsRequest) -> list[uuid.UUID]:
    """Tasks that a watcher of attempts asks about."""
    found: list[Violation] = []
    if len(request.task_ids) > MAX_WATCHED_TASKS:
        found.append(Violation("task_ids", f"must be at most {MAX_WATCHED_TASKS} tasks"))
    asked = request.task_ids[:MAX_WATCHED_TASKS]
    parsed = [_uuid(text, f"task_ids[{place}]", found) for place, text in enumerate(asked)]
    _raise(found)
    return parsed


def request_id(text: str) -> uuid.UUID | None:
    """A request id; None where there is none."""
    found: list[Violation] = []
    parsed = _uuid(text, "request_id", found) if text else None
    _raise(found)
    return parsed


def submission(request: orchestrator_service_pb2.SubmitTaskRequest) -> Submission:
    """A request for a new task."""
    found: list[Violation] = []
    if not _AGENT.fullmatch(request.agent):
        found.append(Violation("agent", "must be the name of an agent: 1 to 63 of a-z, 0-9 and -"))
    if request.agent_version and not _VERSION.fullmatch(request.agent_version):
        found.append(Violation("agent_version", "must be a version such as 1.2.0, or empty for the newest"))
    if not _TASK_TYPE.fullmatch(request.task_type):
        found.append(Violation("task_type", "must be at most 64 letters, digits, _, . and -"))
    value = _input(request, found)
    found += _labels(request.labels)
    given_id = _uuid(request.request_id, "request_id", found) if request.request_id else None
    set_apart = overrides(request, found)
    placement, start = placement_checks.placement(request, found), placement_checks.start(request, found)
    _raise(found)
    return Submission(
        agent=request.agent,
        agent_version=request.agent_version,
        task_type=request.task_type,
        input=value,
        input_json="" if request.input_blob else canonical(value).decode(),
        input_field=request.WhichOneof("payload") or "input",
        input_blob=request.input_blob,
        labels=dict(request.labels),
        request_id=given_id,
        overrides=set_apart,
        placement=placement,
        start=start,
    )


def max_tasks(count: int) -> int:
    """How many dead letters one call redrives."""
    if not 0 <= count <= MAX_REDRIVEN:
        raise invalid([Violation("max_tasks", f"must be 1 to {MAX_REDRIVEN}, or 0 for {REDRIVEN}")])
    return count or REDRIVEN


def after_revision(revision: int) -> int:
    """Where a watch begins."""
    if revision < 0:
        raise invalid([Violation("after_revision", "must not be negative; 0 means from a snapshot")])
    return revision


def wait(request: orchestrator_service_pb2.WaitTaskRequest) -> tuple[uuid.UUID, float]:
    """Which task to wait for, and for how many seconds."""
    found: list[Violation] = []
    parsed = _uuid(request.task_id, "task_id", found)
    seconds = DEFAULT_WAIT_SECONDS
    if request.HasField("timeout"):
        seconds = _seconds(request.timeout, "timeout", found, MAX_WAIT_SECONDS)
    _raise(found)
    return parsed, seconds


def count_limit(limit: int) -> int:
    """How far to count."""
    if not 0 <= limit <= MAX_COUNT:
        raise invalid([Violation("limit", f"must be 1 to {MAX_COUNT}; 0 means {DEFAULT_COUNT}")])
    return limit or DEFAULT_COUNT


def session(opened: worker_service_pb2.OpenSession, *, subject: str) -> Session:
    """The session that a worker opens."""
    found: list[Violation] = []
    session_id = _uuid(opened.session_id, "open.session_id", found)
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
    _raise(found)
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
    session_id = _uuid(request.session_id, "session_id", found)
    claim_id = _uuid(request.claim_id, "claim_id", found)
    if not _POOL.fullmatch(request.pool):
        found.append(Violation("pool", "must be the name of a pool"))
    _raise(found)
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
    _raise(found)
    return finished, begun, child


def step_key(text: str, *, field: str = "step_key") -> str:
    """The key of a step."""
    if not _STEP_KEY.fullmatch(text):
        raise invalid([Violation(field, _STEP_KEY_WANTED)])
    return text


def completion(
    request: worker_service_pb2.CompleteTaskRequest,
) -> tuple[StepFinish | None, Completion]:
    """The last step, if it comes along, and the result."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    if request.result_blob:
        found += _digest(request.result_blob, "result_blob")
        if request.result_json:
            found.append(Violation("result_json", "excludes result_blob"))
        _raise(found)
        return finished, Completion(result_json="", result_blob=request.result_blob)
    result = canonical(_json(request.result_json, "result_json", found)).decode()
    _raise(found)
    return finished, Completion(result_json=result)


def blob(named: str) -> str:
    """The digest of a blob."""
    _raise(list(_digest(named, "digest")))
    return named


def failure(request: worker_service_pb2.FailTaskRequest) -> tuple[StepFinish | None, Failure]:
    """The last step, if it comes along, and what went wrong."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    error = _error(request.error, "error", found)
    told = _seconds(request.retry_delay, "retry_delay", found) if request.HasField("retry_delay") else 0.0
    _raise(found)
    return finished, Failure(error=error, told=told)


def release(request: worker_service_pb2.ReleaseTaskRequest) -> StepFinish | None:
    """The last step, if it comes along."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    _raise(found)
    return finished


def question(request: worker_service_pb2.RequestInputRequest) -> tuple[StepFinish | None, Question]:
    """The last step, if it comes along, and what a person is asked."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    kind = _INPUT_KINDS.get(request.kind)
    if not _STEP_KEY.fullmatch(request.input_id):
        found.append(Violation("input_id", _STEP_KEY_WANTED))
    if kind is None:
        found.append(Violation("kind", f"must be one of {', '.join(InputKind)}"))
    if request.step_key and not _STEP_KEY.fullmatch(request.step_key):
        found.append(Violation("step_key", _STEP_KEY_WANTED))
    if len(request.prompt) > MAX_PROMPT or "\0" in request.prompt:
        found.append(Violation("prompt", f"must be at most {MAX_PROMPT} characters, without NUL"))
    found += _schema(request.schema_json, "schema_json")
    schema = request.schema_json
    if kind is InputKind.UNCERTAIN_STEP:
        schema = uncertain.SCHEMA_JSON
        if not request.step_key or not request.input_id.startswith(uncertain.PREFIX):
            found.append(Violation("input_id", f"must be {uncertain.PREFIX} and the call id of `step_key`"))
        if request.schema_json:
            found.append(Violation("schema_json", "must be empty: what may be said of a step is fixed"))
    _raise(found)
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
    _raise(found)


def awaiting(request: worker_service_pb2.AwaitChildrenRequest) -> tuple[StepFinish | None, Await]:
    """The last step, if it comes along, and the steps whose child tasks are awaited."""
    found: list[Violation] = []
    finished = _finish(request.finish, found) if request.HasField("finish") else None
    if not 1 <= len(request.step_keys) <= MAX_AWAITED:
        found.append(Violation("step_keys", f"must name 1 to {MAX_AWAITED} steps"))
    found += [
        Violation(f"step_keys[{index}]", _STEP_KEY_WANTED)
        for index, key in enumerate(request.step_keys)
        if not _STEP_KEY.fullmatch(key)
    ]
    _raise(found)
    return finished, Await(step_keys=tuple(dict.fromkeys(request.step_keys)))


def provision(request: orchestrator_service_pb2.ProvideInputRequest) -> tuple[uuid.UUID, str, str]:
    """Task id, input id and the canonical answer."""
    found: list[Violation] = []
    parsed = _uuid(request.task_id, "task_id", found)
    if request.input_id and not _STEP_KEY.fullmatch(request.input_id):
        found.append(Violation("input_id", f"{_STEP_KEY_WANTED}, or empty for what the task waits for"))
    answer = canonical(_json(request.answer_json, "answer_json", found)).decode()
    _raise(found)
    return parsed, request.input_id, answer


def _schema(text: str, field: str) -> Iterable[Violation]:
    if len(text) > MAX_SCHEMA:
        yield Violation(field, f"has more than {MAX_SCHEMA} characters")
        return
    try:
        if text:
            compile_schema(text)
    except SchemaUnusable as error:
        yield Violation(field, str(error))


def _input(
    request: orchestrator_service_pb2.SubmitTaskRequest, found: list[Violation]
) -> dict[str, JsonValue]:
    which = request.WhichOneof("payload")
    if which is None:
        wanted = "an input is required, as `input`, `input_json` or `input_blob`"
        found.append(Violation("input", wanted))
        return {}
    if which == "input_blob":
        found += _digest(request.input_blob, "input_blob")
        return {}
    if which == "input":
        try:
            return struct_to_json(request.input)
        except InvalidArgument as error:
            found += error.violations
            return {}
    value = _json(request.input_json, "input_json", found)
    if isinstance(value, dict):
        return value
    if value is not None or not found:
        found.append(Violation("input_json", "must be a JSON object"))
    return {}


def _digest(named: str, field: str) -> Iterable[Violation]:
    if not _DIGEST.fullmatch(named):
        yield Violation(field, "must be sha256: and 64 hex digits in lower case")


def _labels(labels: Mapping[str, str]) -> Iterable[Violation]:
    if len(labels) > MAX_LABELS:
        yield Violation("labels", f"{len(labels)} labels, more than the {MAX_LABELS} allowed")
    for key, value in sorted(labels.items()):
        if not _LABEL.fullmatch(key):
            yield Violation("labels", f"key {key[:64]!r} must be 1 to 63 of a-z, 0-9, _, . and -")
        elif len(value) > MAX_LABEL_CHARACTERS:
            yield Violation(f"labels.{key}", f"has more than {MAX_LABEL_CHARACTERS} characters")
        elif "\0" in value:
            yield Violation(f"labels.{key}", "holds a NUL character")


_STEP_KEY_WANTED = "must be 1 to 128 letters, digits, _, ., : and -"


def _finish(finished: worker_service_pb2.FinishStep, found: list[Violation]) -> StepFinish | None:
    status = _ENDINGS.get(finished.status)
    if not _STEP_KEY.fullmatch(finished.step_key):
        found.append(Violation("finish.step_key", _STEP_KEY_WANTED))
    if status is None:
        found.append(Violation("finish.status", "must be COMPLETED, FAILED or REFUSED"))
        return None
    if status is not StepStatus.REFUSED and not finished.HasField("receipt"):
        found.append(Violation("finish.receipt", f"is required for a step that is {status}"))
    if status is StepStatus.COMPLETED:
        # Kept as it came: the gateway's receipt is over these very bytes.
        _json(finished.output_json, "finish.output_json", found)
        return StepFinish(step_key=finished.step_key, status=status, output_json=finished.output_json)
    return StepFinish(
        step_key=finished.step_key, status=status, error=_error(finished.error, "finish.error", found)
    )


def _begin(begun: worker_service_pb2.BeginStep, found: list[Violation]) -> StepInput:
    if not _STEP_KEY.fullmatch(begun.step_key):
        found.append(Violation("begin.step_key", _STEP_KEY_WANTED))
    kind = _STEP_KINDS.get(begun.kind)
    if kind is None:
        found.append(Violation("begin.kind", f"must be one of {', '.join(StepKind)}"))
    if kind is StepKind.CHILD_TASK and not _AGENT.fullmatch(begun.name):
        found.append(Violation("begin.name", "must be the name of an agent: 1 to 63 of a-z, 0-9 and -"))
    elif not _CALLED.fullmatch(begun.name):
        found.append(Violation("begin.name", "must be the name of a tool, or of a connection"))
    if begun.HasField("child") and kind is not StepKind.CHILD_TASK:
        found.append(Violation("begin.child", "is for a CHILD_TASK"))
    count = len(found)
    value = _json(begun.input_json, "begin.input_json", found)
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
    if child.agent_version and not _VERSION.fullmatch(child.agent_version):
        found.append(
            Violation("begin.child.agent_version", "must be a version such as 1.2.0, or empty for the newest")
        )
    if not _TASK_TYPE.fullmatch(child.task_type):
        found.append(Violation("begin.child.task_type", "must be at most 64 letters, digits, _, . and -"))
    policy = _CLOSE_POLICIES.get(child.close_policy)
    if policy is None:
        found.append(Violation("begin.child.close_policy", f"must be one of {', '.join(ClosePolicy)}"))
    found += [replace(each, field=f"begin.child.{each.field}") for each in _labels(child.labels)]
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
    if error.step_key and not _STEP_KEY.fullmatch(error.step_key):
        found.append(Violation(f"{field}.step_key", _STEP_KEY_WANTED))
    return TaskError(
        error_class=error.error_class,
        # A failure has to be told whatever its text: it is cut and cleaned, not refused.
        message=error.message.replace("\0", "\ufffd")[:MAX_ERROR_MESSAGE],
        step_key=error.step_key,
        retryable=error.retryable,
        # The one clock that a worker keeps too.
        timeout=Timeout.START_TO_CLOSE if error.timeout_kind == _START_TO_CLOSE else None,
    )


def _json(text: str, field: str, found: list[Violation]) -> JsonValue:
    try:
        return parse(text, field=field)
    except InvalidArgument as error:
        found += error.violations
        return None


def _seconds(duration: Duration, field: str, found: list[Violation], most: float = MAX_TOLD_SECONDS) -> float:
    seconds = duration.ToNanoseconds() / 1e9
    if not 0 <= seconds <= most:
        found.append(Violation(field, f"must be 0 to {most:g} seconds"))
    return seconds


def _uuid(text: str, field: str, found: list[Violation]) -> uuid.UUID:
    if _UUID.fullmatch(text):
        return uuid.UUID(text)
    found.append(Violation(field, "must be a UUID such as 01900000-0000-7000-8000-000000000000"))
    return _NIL


def _raise(found: list[Violation]) -> None:
    if found:
        raise invalid(found)
