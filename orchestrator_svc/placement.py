"""Where a task waits, and how it is chosen there. Pure values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

DEFAULT_QUEUE = "default"
MAX_PRIORITY = 9
DEFAULT_PRIORITY = 5


class Strategy(StrEnum):
    """What happens to a new task whose concurrency key is at its limit; the contract says what each means."""

    QUEUE = "QUEUE"
    REJECT = "REJECT"
    CANCEL_OLDEST = "CANCEL_OLDEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a task stands in line; empty keys are none."""

    queue: str = DEFAULT_QUEUE
    priority: int = DEFAULT_PRIORITY
    fairness_key: str = ""
    concurrency_key: str = ""

    @property
    def keyed(self) -> bool:
        """Whether it takes turns with, or is limited with, others of its key."""
        return bool(self.fairness_key or self.concurrency_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a new task's start depends on beside its place; `delay` is seconds from when it is stored."""

    strategy: Strategy = Strategy.QUEUE
    run_after: datetime | None = None
    delay: float = 0.0
