"""How tasks went over time."""

import re
from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

_READ = ("VIEWER",)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_HEADINGS = (
    "SINCE",
    "CAME",
    "DONE",
    "FAILED",
    "CANCELED",
    "SUCCESS",
    "WAIT P50/P95",
    "RUN P50/P95",
    "TOKENS",
)


class Span(click.ParamType[float]):
    """A length of time as people write it: 90s, 5m, 1h, 7d."""

    name = "SPAN"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        match = _SPAN.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no length of time, for example 90s, 5m, 1h or 7d", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


@click.command(short_help="Show how tasks went over time.")
@click.option("--since", "window", default="1h", show_default=True, type=Span(), help="How far back.")
@click.option("--every", default=None, type=Span(), help="In intervals of so long; else all at once.")
@click.option("--agent", default="", help="Tasks of this agent alone.")
@click.option("--queue", default="", help="Tasks of this queue alone.")
@click.option("--by", type=click.Choice(["agent", "queue"]), default=None, help="Tell them apart by this.")
@output_option
@click.pass_obj
def metrics(
    data_dir: str,
    window: float,
    every: float | None,
    agent: str,
    queue: str,
    by: str | None,
    *,
    as_json: bool,
) -> None:
    """Show how tasks went over time: how many came and how they ended, how long they waited and took."""

    async def work() -> None:
        from datetime import UTC, datetime

        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

        now = datetime.now(UTC).timestamp()
        request = messages.QueryTaskMetricsRequest(agent=agent, queue=queue)
        request.end_time.FromNanoseconds(round(now * 1e9))
        request.start_time.FromNanoseconds(round((now - window) * 1e9))
        if every is not None:
            request.interval.FromNanoseconds(round(every * 1e9))
        if by is not None:
            request.group_by = messages.TaskMetricsGroup.Value(f"TASK_METRICS_GROUP_{by.upper()}")
        async with client(data_dir, *_READ) as suite:
            answer = await suite.call(suite.tasks.QueryTaskMetrics, request)
        if as_json:
            display.emit_json(message_json(answer))
            return
        if not answer.series:
            display.emit("no task came or ended in this time")
            return
        rows = [(series.key, *_row(point)) for series in answer.series for point in series.points]
        headings = (by.upper() if by else "", *_HEADINGS)
        display.emit_table(headings if by else headings[1:], rows if by else [row[1:] for row in rows])

    run(work)


def _row(point: "messages.TaskMetricsPoint") -> tuple[str, ...]:
    ended = point.completed + point.failed
    tokens = point.usage.input_tokens + point.usage.output_tokens
    return (
        display.short_time(point.time),
        str(point.submitted),
        str(point.completed),
        str(point.failed),
        str(point.canceled),
        f"{point.completed / ended:.1%}" if ended else "",
        _pair(point.wait) if point.HasField("wait") else "",
        _pair(point.run) if point.HasField("run") else "",
        str(tokens) if tokens else "",
    )


def _pair(quantiles: "messages.DurationQuantiles") -> str:
    return f"{_seconds(quantiles.p50)} / {_seconds(quantiles.p95)}"


def _seconds(duration: "Duration") -> str:
    seconds = duration.ToNanoseconds() / 1e9
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
