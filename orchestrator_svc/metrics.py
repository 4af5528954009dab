"""What the orchestrator measures of itself; the names stand with all others in `svc_kit.metrics`."""

from collections.abc import Sequence

from prometheus_client import Counter, Gauge

from orchestrator_svc.changes import TaskChanges
from svc_kit import metrics as names

SUBMITTED = Counter(names.TASKS_SUBMITTED, "Tasks stored, by queue.", ["queue"])
FINISHED = Counter(names.TASKS_FINISHED, "Tasks that ended, by state.", ["state"])
CLAIMED = Counter(names.ATTEMPTS_CLAIMED, "Attempts begun, by pool.", ["pool"])
SESSIONS = Gauge(names.SESSIONS, "Streams of workers that are open.")
WATCHERS = Gauge(names.WATCHERS, "Watches that are open.")
REAPER_STOPPED = Gauge(names.REAPER_STOPPED, "1 while too many sessions have lapsed at once to end any.")


def count_finished(accepted: Sequence[TaskChanges]) -> None:
    """Count those that have ended by these changes, once they are committed."""
    for changes in accepted:
        if changes.task.status.state.terminal and changes.events:
            FINISHED.labels(str(changes.task.status.state)).inc()
