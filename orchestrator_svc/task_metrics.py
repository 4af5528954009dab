"""How tasks went over time: what is asked, what is answered, and its bounds. Pure, but for the store."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from orchestrator_svc.errors import too_many_metrics
from orchestrator_svc.records import Usage

MOST_TASKS = 1_000_000
MOST_POINTS = 10_000
MOST_INTERVALS = 1000
LONGEST = timedelta(days=31)
SHORTEST_SECONDS = 1.0
DEFAULT_WINDOW = timedelta(hours=1)


class Group(Enum):
    """By what tasks are told apart."""

    NOTHING = ""
    AGENT = "agent"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsQuery:
    """A window, which its end does not belong to, in intervals of so many seconds; empty names: all tasks."""

    start: datetime
    end: datetime
    seconds: float
    agent: str = ""
    queue: str = ""
    group: Group = Group.NOTHING

    @property
    def intervals(self) -> int:
        """How many there are."""
        return math.ceil((self.end - self.start).total_seconds() / self.seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """The 50th, 95th and 99th of a hundred durations, in seconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The tasks of a key that ended in an interval."""

    key: str
    time: datetime
    completed: int
    failed: int
    canceled: int
    dead_lettered: int
    attempts: int
    failures: int
    crashes: int
    wait: Quantiles | None
    run: Quantiles | None
    usage: Usage | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """How many tasks of a key came in an interval."""

    key: str
    time: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One interval of one key; `ended` is None where nothing did."""

    key: str
    time: datetime
    submitted: int
    ended: Ended | None


class MetricsStore(Protocol):
    """What is asked of the store: None where there are more tasks than may be looked at."""

    async def submitted(self, tenant: str, query: MetricsQuery, *, most: int) -> list[Submitted] | None: ...
    async def ended(self, tenant: str, query: MetricsQuery, *, most: int) -> list[Ended] | None: ...


class TaskMetrics:
    """How the tasks of a tenant went."""

    def __init__(self, store: MetricsStore) -> None:
        self._store = store

    async def query(self, tenant: str, query: MetricsQuery) -> list[Point]:
        """By key and time; raises LIMIT_EXCEEDED."""
        ended = await self._store.ended(tenant, query, most=MOST_TASKS)
        submitted = await self._store.submitted(tenant, query, most=MOST_TASKS)
        if ended is None or submitted is None:
            raise too_many_metrics("tasks", MOST_TASKS, "a shorter window")
        points = merged(submitted, ended)
        if len(points) > MOST_POINTS:
            raise too_many_metrics("points", MOST_POINTS, "longer intervals, or a single agent or queue")
        return points


def merged(submitted: Sequence[Submitted], ended: Sequence[Ended]) -> list[Point]:
    """What came and what ended, by key and time."""
    ends = {(each.key, each.time): each for each in ended}
    counts = {(each.key, each.time): each.count for each in submitted}
    return [
        Point(key=key, time=time, submitted=counts.get((key, time), 0), ended=ends.get((key, time)))
        for key, time in sorted(ends.keys() | counts.keys())
    ]
