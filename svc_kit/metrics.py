"""All metric names of Interlock in one place, and the page that serves them.

Objects are here for what every service measures. A service makes its own from the names below, at its start,
so that no service exports zeros of another's.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from interlock.common.addresses import parse_address
from svc_kit.group_commit import Observer

_CALL_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

RPC_HANDLED = Counter(
    "interlock_rpc_handled_total", "Calls answered, by method and code.", ["method", "code"]
)
RPC_SECONDS = Histogram(
    "interlock_rpc_seconds",
    "Seconds from a call to its last reply.",
    ["method", "code"],
    buckets=_CALL_SECONDS,
)
RPC_IN_FLIGHT = Gauge("interlock_rpc_in_flight", "Calls being answered now.", ["method"])

# Every service that commits in groups or relays events; with labels, nothing shows before its first use.
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_COMMIT_ROWS = Histogram("interlock_group_commit_rows", "Rows in one commit.", ["lane"], buckets=_ROWS)
_COMMIT_SECONDS = Histogram("interlock_group_commit_seconds", "Seconds of one commit.", ["lane"])
OUTBOX_BACKLOG = "interlock_outbox_backlog"  # gauge: audit records that wait for delivery
OUTBOX_OLDEST_SECONDS = "interlock_outbox_oldest_seconds"  # gauge: age of the oldest of them

# Orchestrator
TASKS_SUBMITTED = "interlock_tasks_submitted_total"  # counter, by queue
TASKS_FINISHED = "interlock_tasks_finished_total"  # counter, by state
ATTEMPTS_CLAIMED = "interlock_attempts_claimed_total"  # counter, by pool
REAPER_STOPPED = "interlock_reaper_stopped"  # gauge: 1 = too many sessions lapsed at once
SESSIONS = "interlock_worker_sessions"  # gauge: connected workers
WATCHERS = "interlock_watchers"  # gauge: open watches

# Gateway
TOOL_CALLS = "interlock_tool_calls_total"  # counter, by outcome
TOOL_CALL_SECONDS = "interlock_tool_call_seconds"  # histogram, by step of the pipeline

# Audit
AUDIT_MONTHS_READY = "interlock_audit_months_ready"  # gauge: months after this one that have a partition
AUDIT_MISSING_EVENTS = "interlock_audit_missing_events"  # gauge, by producer
AUDIT_OLDEST_GAP_SECONDS = "interlock_audit_oldest_gap_seconds"  # gauge, by producer
AUDIT_TEXT_LAG_SECONDS = "interlock_audit_text_lag_seconds"  # gauge: contents not yet found by their words
AUDIT_RETENTION_REMOVED = (
    "interlock_audit_retention_removed_parts_total"  # counter: contents whose time was over
)
AUDIT_RETENTION_REMOVED_ENTRIES = (
    "interlock_audit_retention_removed_entries_total"  # counter: entries whose time was over
)
AUDIT_RETENTION_OLDEST_OVERDUE_SECONDS = (
    "interlock_audit_retention_oldest_overdue_seconds"  # gauge: for how long
)


def commit_lane(name: str) -> Observer:
    """Measures the commits of one `GroupCommit`, by the name of what it commits."""
    rows, seconds = _COMMIT_ROWS.labels(name), _COMMIT_SECONDS.labels(name)

    def observe(count: int, took: float) -> None:
        rows.observe(count)
        seconds.observe(took)

    return observe


@asynccontextmanager
async def metrics_page(address: str) -> AsyncIterator[str]:
    """Serve /metrics at `address` inside the block and yield the bound address; "" serves nothing."""
    if not address:
        yield ""
        return
    wanted = parse_address(address)
    if wanted.is_unix:
        raise ValueError(f"{address}: the metrics page needs host:port")
    server, thread = start_http_server(wanted.port, wanted.host)
    try:
        yield wanted.with_port(server.server_port).text
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(thread.join)
