"""Which of the waiting tasks of a queue go next. Pure: what it needs has been read under the queue's lock."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A task that could go next, as far as it alone is looked at."""

    task_id: UUID
    priority: int
    fairness_key: str
    concurrency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who goes next, in order; `turns` are the fairness keys that had their turn last, by priority."""

    task_ids: tuple[UUID, ...]
    turns: tuple[str, ...]


@dataclass(slots=True)
class _Room:
    """What the limits still allow."""

    tasks: int
    per_key: int
    of_key: dict[str, int] = field(default_factory=dict)  # left, of keys of which some run

    def take(self, key: str) -> bool:
        """Whether one more of the key may run; if so it does."""
        if key:
            left = self.of_key.get(key, self.per_key)
            if left <= 0:
                return False
            self.of_key[key] = left - 1
        self.tasks -= 1
        return True


def choose(
    candidates: Iterable[Candidate],
    *,
    room: int,
    max_running_per_key: int,
    running: Mapping[str, int],
    turns: Sequence[str],
) -> Choice:
    """Up to `room` tasks: the highest priority first, within it each fairness key by turns, oldest first.

    `candidates` come by priority, within it by fairness key beginning after the one that had its turn last,
    and within that by age. `running` counts by concurrency key.
    """
    left = {key: max_running_per_key - count for key, count in running.items()}
    room_left = _Room(room, max_running_per_key, left)
    chosen: list[UUID] = []
    last = list(turns)
    for priority, of_priority in groupby(candidates, key=lambda each: each.priority):
        lines = deque(deque(line) for _, line in groupby(of_priority, key=lambda each: each.fairness_key))
        while lines and room_left.tasks > 0:
            line = lines.popleft()
            taken = _first_allowed(line, room_left)
            if taken is None:
                continue
            chosen.append(taken.task_id)
            last[priority] = taken.fairness_key
            if line:
                lines.append(line)
    return Choice(task_ids=tuple(chosen), turns=tuple(last))


def _first_allowed(line: deque[Candidate], room: _Room) -> Candidate | None:
    """Take the oldest of a fairness key whose concurrency key has room; those before it wait on."""
    while line:
        candidate = line.popleft()
        if room.take(candidate.concurrency_key):
            return candidate
    return None
