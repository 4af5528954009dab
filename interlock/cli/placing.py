"""Where and when a submitted task runs: the options, and the fields they become."""

from collections.abc import Callable
from typing import Any

import click

_STRATEGIES = ("queue", "reject", "cancel-oldest")
_OPTIONS = (
    click.option("--queue", default="", help="Queue to wait in; by default `default`."),
    click.option("--priority", type=int, default=None, help="0 to 9, the higher goes first; by default 5."),
    click.option("--fairness-key", default="", help="Tasks take turns by this key."),
    click.option("--concurrency-key", default="", help="Tasks of this key run one, or a few, at a time."),
    click.option(
        "--strategy", type=click.Choice(_STRATEGIES), default=None, help="When the concurrency key is busy."
    ),
    click.option("--run-after", default="", metavar="TIME", help="Not before, as 2026-01-31T08:00:00Z."),
    click.option("--delay", type=float, default=None, metavar="SECONDS", help="Not before so long from now."),
)


def placing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command; they arrive as keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def placing_fields(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of SubmitTaskRequest; the server says what is wrong with them."""
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

    from interlock.orchestrator.v1 import task_pb2

    fields: dict[str, Any] = {
        name: given[name] for name in ("queue", "fairness_key", "concurrency_key") if given[name]
    }
    if given["priority"] is not None:
        fields["priority"] = given["priority"]
    if given["strategy"]:
        name = given["strategy"].upper().replace("-", "_")
        fields["concurrency_strategy"] = task_pb2.ConcurrencyStrategy.Value(f"CONCURRENCY_STRATEGY_{name}")
    if given["run_after"] and given["delay"] is not None:
        raise click.UsageError("--run-after and --delay exclude each other")
    if given["run_after"]:
        fields["run_after"] = Timestamp()
        try:
            fields["run_after"].FromJsonString(given["run_after"])
        except ValueError:
            said = f"{given['run_after']!r} is no time such as 2026-01-31T08:00:00Z"
            raise click.BadParameter(said, param_hint="--run-after") from None
    if given["delay"] is not None:
        fields["delay"] = Duration()
        fields["delay"].FromNanoseconds(round(given["delay"] * 1e9))
    return fields
