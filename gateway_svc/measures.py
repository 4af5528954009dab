"""What the gateway counts and times."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from prometheus_client import Counter, Histogram

from svc_kit import metrics

_STEP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """Made once a process."""

    def __init__(self) -> None:
        self._calls = Counter(metrics.TOOL_CALLS, "Tool calls answered, by outcome.", ["outcome"])
        self._seconds = Histogram(
            metrics.TOOL_CALL_SECONDS, "Seconds of one step of a tool call.", ["step"], buckets=_STEP_SECONDS
        )

    def count(self, outcome: str) -> None:
        """One call was answered; `outcome` is a status or the reason of an error."""
        self._calls.labels(outcome).inc()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the block as one step."""
        with self._seconds.labels(name).time():
            yield


@cache
def measures() -> Measures:
    """Those of this process."""
    return Measures()
