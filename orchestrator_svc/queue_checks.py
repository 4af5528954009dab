"""Checks of requests about queues and workers. Pure; all violations at once."""

import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace

from interlock.orchestrator.v1 import queue_service_pb2 as messages
from orchestrator_svc.placement_checks import QUEUE_NAME, QUEUE_NAME_WANTED
from orchestrator_svc.queues import Queue, RateLimit
from orchestrator_svc.records import POOL
from svc_kit.errors import Violation, invalid

MAX_DESCRIPTION = 1000
MAX_WAITING = 100_000
MAX_COUNT = 1_000_000
MAX_PERIOD_SECONDS = 24 * 3600.0
MIN_PERIOD_SECONDS = 0.001

_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_CHANGEABLE = ("description", "max_running", "max_running_per_key", "max_waiting", "rate_limit")
_ELSEWHERE = {
    "paused": "is set by PauseQueue and ResumeQueue",
    "pool": "never changes; make another queue",
    "name": "never changes; make another queue",
}


def name(text: str, field: str = "name") -> str:
    """The name of a queue."""
    if not QUEUE_NAME.fullmatch(text):
        raise invalid([Violation(field, QUEUE_NAME_WANTED)])
    return text


def new_queue(request: messages.CreateQueueRequest, tenant: str) -> Queue:
    """A queue to be made."""
    asked, found = request.queue, list[Violation]()
    if not QUEUE_NAME.fullmatch(asked.name):
        found.append(Violation("queue.name", QUEUE_NAME_WANTED))
    if asked.pool and not _POOL.fullmatch(asked.pool):
        found.append(Violation("queue.pool", "must be the name of a pool, or empty for 'default'"))
    if asked.paused:
        found.append(Violation("queue.paused", _ELSEWHERE["paused"]))
    queue = _limits(Queue(tenant=tenant, name=asked.name, pool=asked.pool or POOL), asked, _CHANGEABLE, found)
    if found:
        raise invalid(found)
    return queue


def change(request: messages.UpdateQueueRequest) -> tuple[str, Callable[[Queue], Queue]]:
    """The name of the queue, and what is to become of it."""
    asked, found = request.queue, list[Violation]()
    paths = list(request.update_mask.paths)
    if not QUEUE_NAME.fullmatch(asked.name):
        found.append(Violation("queue.name", QUEUE_NAME_WANTED))
    if not paths:
        found.append(Violation("update_mask", f"must name at least one of {', '.join(_CHANGEABLE)}"))
    for path in paths:
        if path not in _CHANGEABLE:
            said = _ELSEWHERE.get(path, f"is none of {', '.join(_CHANGEABLE)}")
            found.append(Violation("update_mask", f"{path[:64]!r} {said}"))
    wanted = [path for path in paths if path in _CHANGEABLE]
    probe = _limits(Queue(tenant="", name="", pool=""), asked, wanted, found)
    if found:
        raise invalid(found)
    values = {("rate" if path == "rate_limit" else path): None for path in wanted}
    new = {field: getattr(probe, field) for field in values}
    return asked.name, lambda queue: replace(queue, **new)


def session_id(text: str) -> uuid.UUID:
    """The session of a worker."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise invalid([Violation("session_id", "must be a UUID, as ListWorkers shows it")]) from None


def _limits(queue: Queue, asked: messages.Queue, paths: Iterable[str], found: list[Violation]) -> Queue:
    """The queue with these fields as asked for."""
    for path in paths:
        if path == "description":
            if len(asked.description) > MAX_DESCRIPTION or "\0" in asked.description:
                said = f"must be at most {MAX_DESCRIPTION} characters, without NUL"
                found.append(Violation("queue.description", said))
            queue = replace(queue, description=asked.description)
        elif path == "max_running":
            number = _number("max_running", asked.max_running, MAX_COUNT, found)
            queue = replace(queue, max_running=number)
        elif path == "max_running_per_key":
            number = _number("max_running_per_key", asked.max_running_per_key, MAX_COUNT, found)
            queue = replace(queue, max_running_per_key=number or 1)
        elif path == "max_waiting":
            number = _number("max_waiting", asked.max_waiting, MAX_WAITING, found)
            queue = replace(queue, max_waiting=number)
        else:
            queue = replace(queue, rate=_rate(asked, found))
    return queue


def _number(field: str, value: int, most: int, found: list[Violation]) -> int | None:
    if not 0 <= value <= most:
        found.append(Violation(f"queue.{field}", f"must be 0 to {most}"))
    return value or None


def _rate(asked: messages.Queue, found: list[Violation]) -> RateLimit | None:
    if not asked.HasField("rate_limit"):
        return None
    rate, count = asked.rate_limit, len(found)
    seconds = rate.period.seconds + rate.period.nanos / 1e9
    if not 1 <= rate.count <= MAX_COUNT:
        found.append(Violation("queue.rate_limit.count", f"must be 1 to {MAX_COUNT}"))
    if not MIN_PERIOD_SECONDS <= seconds <= MAX_PERIOD_SECONDS:
        found.append(Violation("queue.rate_limit.period", "must be 1 ms to 24 hours"))
    if not 0 <= rate.burst <= MAX_COUNT:
        found.append(Violation("queue.rate_limit.burst", f"must be 0 to {MAX_COUNT}"))
    if len(found) > count:
        return None
    return RateLimit(count=rate.count, seconds=seconds, burst=rate.burst or rate.count)
