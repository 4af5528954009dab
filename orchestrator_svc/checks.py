"""Checks of what people and services ask of tasks. Pure; all violations at once."""

import uuid

from interlock.orchestrator.v1 import orchestrator_service_pb2
from orchestrator_svc import placement_checks
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
)
from orchestrator_svc.overrides import overrides
from orchestrator_svc.submissions import Submission
from svc_kit.errors import InvalidArgument, Violation, invalid
from svc_kit.strict_json import JsonValue, canonical, struct_to_json

MAX_WAIT_SECONDS = 300.0
DEFAULT_WAIT_SECONDS = 30.0
MAX_COUNT = 100_000
DEFAULT_COUNT = 10_000
MAX_WATCHED_TASKS = 10_000
REDRIVEN = 100
MAX_REDRIVEN = 500


def watched(request: orchestrator_service_pb2.WatchAttemptsRequest) -> list[uuid.UUID]:
    """Tasks that a watcher of attempts asks about."""
    found: list[Violation] = []
    if len(request.task_ids) > MAX_WATCHED_TASKS:
        found.append(Violation("task_ids", f"must be at most {MAX_WATCHED_TASKS} tasks"))
    asked = request.task_ids[:MAX_WATCHED_TASKS]
    parsed = [parsed_uuid(text, f"task_ids[{place}]", found) for place, text in enumerate(asked)]
    raise_all(found)
    return parsed


def request_id(text: str) -> uuid.UUID | None:
    """A request id; None where there is none."""
    found: list[Violation] = []
    parsed = parsed_uuid(text, "request_id", found) if text else None
    raise_all(found)
    return parsed


def submission(request: orchestrator_service_pb2.SubmitTaskRequest) -> Submission:
    """A request for a new task."""
    found: list[Violation] = []
    if not AGENT.fullmatch(request.agent):
        found.append(Violation("agent", "must be the name of an agent: 1 to 63 of a-z, 0-9 and -"))
    if request.agent_version and not VERSION.fullmatch(request.agent_version):
        found.append(Violation("agent_version", "must be a version such as 1.2.0, or empty for the newest"))
    if not TASK_TYPE.fullmatch(request.task_type):
        found.append(Violation("task_type", "must be at most 64 letters, digits, _, . and -"))
    value = _input(request, found)
    found += label_flaws(request.labels)
    given_id = parsed_uuid(request.request_id, "request_id", found) if request.request_id else None
    set_apart = overrides(request, found)
    placement, start = placement_checks.placement(request, found), placement_checks.start(request, found)
    raise_all(found)
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
    parsed = parsed_uuid(request.task_id, "task_id", found)
    seconds = DEFAULT_WAIT_SECONDS
    if request.HasField("timeout"):
        seconds = duration_seconds(request.timeout, "timeout", found, MAX_WAIT_SECONDS)
    raise_all(found)
    return parsed, seconds


def count_limit(limit: int) -> int:
    """How far to count."""
    if not 0 <= limit <= MAX_COUNT:
        raise invalid([Violation("limit", f"must be 1 to {MAX_COUNT}; 0 means {DEFAULT_COUNT}")])
    return limit or DEFAULT_COUNT


def provision(request: orchestrator_service_pb2.ProvideInputRequest) -> tuple[uuid.UUID, str, str]:
    """Task id, input id and the canonical answer."""
    found: list[Violation] = []
    parsed = parsed_uuid(request.task_id, "task_id", found)
    if request.input_id and not STEP_KEY.fullmatch(request.input_id):
        found.append(Violation("input_id", f"{STEP_KEY_WANTED}, or empty for what the task waits for"))
    answer = canonical(parsed_json(request.answer_json, "answer_json", found)).decode()
    raise_all(found)
    return parsed, request.input_id, answer


def _input(
    request: orchestrator_service_pb2.SubmitTaskRequest, found: list[Violation]
) -> dict[str, JsonValue]:
    which = request.WhichOneof("payload")
    if which is None:
        wanted = "an input is required, as `input`, `input_json` or `input_blob`"
        found.append(Violation("input", wanted))
        return {}
    if which == "input_blob":
        found += digest_flaws(request.input_blob, "input_blob")
        return {}
    if which == "input":
        try:
            return struct_to_json(request.input)
        except InvalidArgument as error:
            found += error.violations
            return {}
    value = parsed_json(request.input_json, "input_json", found)
    if isinstance(value, dict):
        return value
    if value is not None or not found:
        found.append(Violation("input_json", "must be a JSON object"))
    return {}
