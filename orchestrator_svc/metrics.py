"""What the orchestrator measures of itself; the names stand with all others in `svc_kit.metrics`."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from orchestrator_svc.changes import TaskChanges
from svc_kit import metrics as names
from svc_kit.group_commit import Observer

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

SUBMITTED = Counter(names.TASKS_SUBMITTED, "Tasks stored, by queue.", ["queue"])
FINISHED = Counter(names.TASKS_FINISHED, "Tasks that ended, by state.", ["state"])
CLAIMED = Counter(names.ATTEMPTS_CLAIMED, "Attempts begun, by pool.", ["pool"])
SESSIONS = Gauge(names.SESSIONS, "Streams of workers that are open.")
WATCHERS = Gauge(names.WATCHERS, "Watches that are open.")
BACKLOG = Gauge(names.OUTBOX_BACKLOG, "Audit records that wait for delivery.")
OLDEST = Gauge(names.OUTBOX_OLDEST_SECONDS, "Age of the oldest audit record that waits.")
_COMMIT_ROWS = Histogram(names.GROUP_COMMIT_ROWS, "Rows in one commit.", ["lane"], buckets=_ROWS)
_COMMIT_SECONDS = Histogram(names.GROUP_COMMIT_SECONDS, "Seconds of one commit.", ["lane"])


def lane(name: str) -> Observer:
    """Measures the commits of one lane."""
    rows, seconds = _COMMIT_ROWS.labels(name), _COMMIT_SECONDS.labels(name)

    def observe(count: int, took: float) -> None:
        rows.observe(count)
        seconds.observe(took)

    return observe


def count_finished(accepted: Sequence[TaskChanges]) -> None:
    """Count those that have ended by these changes, once they are committed."""
    for changes in accepted:
        if changes.task.status.state.terminal and changes.events:
            FINISHED.labels(str(changes.task.status.state)).inc()
