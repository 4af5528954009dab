"""Between the messages of QueryTaskMetrics and what they mean. Pure; all violations at once."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

from google.protobuf.duration_pb2 import Duration

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from orchestrator_svc.convert import duration_to_proto, time_to_proto, usage_to_proto
from orchestrator_svc.placement_checks import QUEUE_NAME, QUEUE_NAME_WANTED
from orchestrator_svc.task_metrics import (
    DEFAULT_WINDOW,
    LONGEST,
    MOST_INTERVALS,
    SHORTEST_SECONDS,
    Group,
    MetricsQuery,
    Point,
    Quantiles,
)
from svc_kit.errors import Violation, invalid

_GROUPS = {
    messages.TASK_METRICS_GROUP_UNSPECIFIED: Group.NOTHING,
    messages.TASK_METRICS_GROUP_AGENT: Group.AGENT,
    messages.TASK_METRICS_GROUP_QUEUE: Group.QUEUE,
}
_MAX_AGENT = 63
_EARLIEST = datetime.min.replace(tzinfo=UTC) + DEFAULT_WINDOW


def metrics_query(request: messages.QueryTaskMetricsRequest, *, now: datetime) -> MetricsQuery:
    """What is asked for; raises INVALID_FIELDS."""
    found: list[Violation] = []
    end = _time(request, "end_time", found) or now
    start = _time(request, "start_time", found) or max(end, _EARLIEST) - DEFAULT_WINDOW
    window = (end - start).total_seconds()
    if not 0 < window <= LONGEST.total_seconds():
        found.append(Violation("start_time", f"must be before end_time, by {LONGEST.days} days at most"))
    seconds = request.interval.ToNanoseconds() / 1e9 if request.HasField("interval") else max(window, 1.0)
    if seconds < SHORTEST_SECONDS or seconds * MOST_INTERVALS < window:
        least = max(SHORTEST_SECONDS, window / MOST_INTERVALS)
        found.append(Violation("interval", f"must be at least {least:g} s for a window of {window:g} s"))
    if len(request.agent) > _MAX_AGENT:
        found.append(Violation("agent", "must be the name of an agent"))
    if request.queue and not QUEUE_NAME.fullmatch(request.queue):
        found.append(Violation("queue", QUEUE_NAME_WANTED))
    group = _GROUPS.get(request.group_by)
    if group is None:
        found.append(Violation("group_by", "must be AGENT or QUEUE, or left out"))
    if found:
        raise invalid(found)
    return MetricsQuery(
        start=start,
        end=end,
        seconds=seconds,
        agent=request.agent,
        queue=request.queue,
        group=group or Group.NOTHING,
    )


def metrics_answer(query: MetricsQuery, points: Sequence[Point]) -> messages.QueryTaskMetricsResponse:
    """The answer."""
    return messages.QueryTaskMetricsResponse(
        series=[
            messages.TaskMetricsSeries(key=key, points=[_point(point) for point in of_key])
            for key, of_key in groupby(points, key=lambda point: point.key)
        ],
        start_time=time_to_proto(query.start),
        end_time=time_to_proto(query.end),
        interval=duration_to_proto(query.seconds),
    )


def _point(point: Point) -> messages.TaskMetricsPoint:
    ended = point.ended
    if ended is None:
        return messages.TaskMetricsPoint(time=time_to_proto(point.time), submitted=point.submitted)
    return messages.TaskMetricsPoint(
        time=time_to_proto(point.time),
        submitted=point.submitted,
        completed=ended.completed,
        failed=ended.failed,
        canceled=ended.canceled,
        dead_lettered=ended.dead_lettered,
        attempts=ended.attempts,
        failures=ended.failures,
        crashes=ended.crashes,
        wait=_quantiles(ended.wait),
        run=_quantiles(ended.run),
        usage=usage_to_proto(ended.usage),
    )


def _quantiles(quantiles: Quantiles | None) -> messages.DurationQuantiles | None:
    if quantiles is None:
        return None
    return messages.DurationQuantiles(
        p50=_duration(quantiles.p50), p95=_duration(quantiles.p95), p99=_duration(quantiles.p99)
    )


def _duration(seconds: float) -> Duration | None:
    return duration_to_proto(max(0.0, seconds))


def _time(request: messages.QueryTaskMetricsRequest, field: str, found: list[Violation]) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]  # of the two names below
        return None
    stamp = request.start_time if field == "start_time" else request.end_time
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except ValueError:
        found.append(Violation(field, "is no time"))
        return None
