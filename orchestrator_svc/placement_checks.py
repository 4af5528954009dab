"""Checks of where and when a new task asks to run. Pure; violations are gathered."""

import re
from datetime import UTC, datetime

from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2
from orchestrator_svc.placement import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    MAX_PRIORITY,
    Placement,
    Start,
    Strategy,
)
from svc_kit.errors import Violation

MAX_KEY_CHARACTERS = 128
MAX_AHEAD_SECONDS = 366 * 24 * 3600
QUEUE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
QUEUE_NAME_WANTED = "must be the name of a queue: 1 to 63 of a-z, 0-9, _ and -"

_STRATEGIES = {
    task_pb2.CONCURRENCY_STRATEGY_UNSPECIFIED: Strategy.QUEUE,
    task_pb2.CONCURRENCY_STRATEGY_QUEUE: Strategy.QUEUE,
    task_pb2.CONCURRENCY_STRATEGY_REJECT: Strategy.REJECT,
    task_pb2.CONCURRENCY_STRATEGY_CANCEL_OLDEST: Strategy.CANCEL_OLDEST,
}
_LAST_SECOND = 253_402_300_799  # of the year 9999


def placement(request: orchestrator_service_pb2.SubmitTaskRequest, found: list[Violation]) -> Placement:
    """Where the task is to wait; without a fairness key its concurrency key serves as one."""
    if request.queue and not QUEUE_NAME.fullmatch(request.queue):
        found.append(Violation("queue", f"{QUEUE_NAME_WANTED}, or empty for {DEFAULT_QUEUE!r}"))
    priority = request.priority if request.HasField("priority") else DEFAULT_PRIORITY
    if not 0 <= priority <= MAX_PRIORITY:
        found.append(Violation("priority", f"must be 0 to {MAX_PRIORITY}; the higher goes first"))
    for field, key in (
        ("fairness_key", request.fairness_key),
        ("concurrency_key", request.concurrency_key),
    ):
        if len(key) > MAX_KEY_CHARACTERS or not key.isprintable():
            found.append(Violation(field, f"must be at most {MAX_KEY_CHARACTERS} printable characters"))
    return Placement(
        queue=request.queue or DEFAULT_QUEUE,
        priority=priority,
        fairness_key=request.fairness_key or request.concurrency_key,
        concurrency_key=request.concurrency_key,
    )


def start(request: orchestrator_service_pb2.SubmitTaskRequest, found: list[Violation]) -> Start:
    """When the task may run, and what happens where its key is at its limit."""
    strategy = _STRATEGIES.get(request.concurrency_strategy)
    if strategy is None:
        found.append(Violation("concurrency_strategy", "must be QUEUE, REJECT or CANCEL_OLDEST"))
    elif request.concurrency_strategy and not request.concurrency_key:
        found.append(Violation("concurrency_strategy", "needs a concurrency_key"))
    return Start(
        strategy=strategy or Strategy.QUEUE,
        run_after=_run_after(request, found) if request.HasField("run_after") else None,
        delay=_delay(request, found) if request.HasField("delay") else 0.0,
    )


def _run_after(
    request: orchestrator_service_pb2.SubmitTaskRequest, found: list[Violation]
) -> datetime | None:
    stamp = request.run_after
    if not (0 <= stamp.seconds <= _LAST_SECOND and 0 <= stamp.nanos < 10**9):
        found.append(Violation("run_after", "must be a time from 1970 to 9999"))
        return None
    when = stamp.ToDatetime(UTC)
    # By the clock of this process: it is a bound on mistakes, and decides nothing else.
    if (when - datetime.now(UTC)).total_seconds() > MAX_AHEAD_SECONDS:
        found.append(Violation("run_after", "must be at most a year ahead"))
    return when


def _delay(request: orchestrator_service_pb2.SubmitTaskRequest, found: list[Violation]) -> float:
    seconds = request.delay.seconds + request.delay.nanos / 1e9
    if not 0 <= seconds <= MAX_AHEAD_SECONDS:
        found.append(Violation("delay", "must be at least 0 and at most a year"))
        return 0.0
    return seconds
