"""Tasks: submit, get, list, cancel, retry."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.cli import display
from interlock.cli.placing import placing_fields, placing_options
from interlock.cli.problems import CliError
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.orchestrator.v1 import task_pb2

_READ = ("VIEWER",)
_READ_PAYLOADS = ("DEVELOPER",)
_WRITE = ("DEVELOPER",)


@click.command()
@click.argument("agent")
@click.argument("input_text", metavar="INPUT")
@click.option("--agent-version", default="", help="A version of the agent instead of the newest.")
@click.option("--type", "task_type", default="", help="A free word for sorting and filtering.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated.")
@click.option("--request-id", default="", help="A UUID; a repeat with the same body answers the first task.")
@click.option("--max-failures", default=0, type=click.IntRange(0, 100), help="Instead of the agent's.")
@click.option("--start-timeout", default=0.0, metavar="SECONDS", help="Longest wait for the first attempt.")
@click.option("--attempt-timeout", default=0.0, metavar="SECONDS", help="Longest time of one attempt.")
@click.option("--timeout", default=0.0, metavar="SECONDS", help="Longest time in all.")
@placing_options
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 1 unless it is COMPLETED.")
@output_option
@click.pass_obj
def submit(
    data_dir: str,
    /,
    agent: str,
    input_text: str,
    agent_version: str,
    task_type: str,
    labels: tuple[str, ...],
    request_id: str,
    max_failures: int,
    start_timeout: float,
    attempt_timeout: float,
    timeout: float,
    *,
    wait: bool,
    as_json: bool,
    **placing: Any,
) -> int:
    """Submit a task for AGENT. INPUT is a JSON object, @FILE, or - for standard input."""
    input_json, label_map, placed = _read(input_text), _labels(labels), placing_fields(placing)

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            task = await suite.submit(
                agent,
                input_json,
                agent_version=agent_version,
                task_type=task_type,
                labels=label_map,
                request_id=request_id,
                **_set_apart(max_failures, start_timeout, attempt_timeout, timeout),
                **placed,
            )
            return await suite.wait(task.task_id) if wait else task

    task = run(work)
    show_task(task, as_json=as_json)
    return code_of(task.state) if wait else 0


@click.command()
@click.argument("task_id")
@output_option
@click.pass_obj
def get(data_dir: str, task_id: str, *, as_json: bool) -> None:
    """Show one task with its input, result and attempts."""

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_READ_PAYLOADS) as suite:
            return await suite.get(task_id)

    show_task(run(work), as_json=as_json)


@click.command("list")
@click.option("--agent", default="", help="Tasks of this agent alone.")
@click.option("--state", default="", help="Tasks in this state alone, for example FAILED.")
@click.option("--filter", "extra", default="", help='A filter, for example: task_type = "nightly"')
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@click.option("--page-token", default="", help="Go on where an earlier list ended.")
@output_option
@click.pass_obj
def list_tasks(
    data_dir: str, agent: str, state: str, extra: str, limit: int, page_token: str, *, as_json: bool
) -> None:
    """List tasks, newest first."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.events import state_name
        from interlock.cli.message_json import message_json
        from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

        request = messages.ListTasksRequest(
            page_size=limit, page_token=page_token, filter=filter_text(agent=agent, state=state, extra=extra)
        )
        async with client(data_dir, *_READ) as suite:
            answer = await suite.call(suite.tasks.ListTasks, request)
        if as_json:
            display.emit_json(message_json(answer))
            return
        rows = [
            (
                task.task_id,
                state_name(task),
                f"{task.agent} {task.agent_version}",
                str(task.attempt),
                display.short_time(task.create_time),
            )
            for task in answer.tasks
        ]
        display.emit_table(("TASK", "STATE", "AGENT", "ATTEMPT", "SUBMITTED"), rows)
        if answer.next_page_token:
            display.emit(f"\nMore: --page-token {answer.next_page_token}")

    run(work)


@click.command(short_help="End a task.")
@click.argument("task_id")
@output_option
@click.pass_obj
def cancel(data_dir: str, task_id: str, *, as_json: bool) -> None:
    """End a task: at once when no attempt runs, else when its worker has wound up."""

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            return await suite.cancel(task_id)

    show_task(run(work), as_json=as_json)


@click.command(short_help="Make a new task from one that has ended.")
@click.argument("task_id")
@click.option("--from-step", default="", metavar="KEY", help="Take over the finished steps before this one.")
@click.option("--request-id", default="", help="A UUID; a repeat answers the first new task.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 1 unless it is COMPLETED.")
@output_option
@click.pass_obj
def retry(data_dir: str, task_id: str, from_step: str, request_id: str, *, wait: bool, as_json: bool) -> int:
    """Make a new task from one that has ended: same agent version, same input."""

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            task = await suite.retry(task_id, request_id=request_id, from_step=from_step)
            return await suite.wait(task.task_id) if wait else task

    task = run(work)
    show_task(task, as_json=as_json)
    return code_of(task.state) if wait else 0


def show_task(task: "task_pb2.Task", *, as_json: bool) -> None:
    """Show a task for people, or as JSON."""
    from interlock.cli.events import task_text
    from interlock.cli.message_json import message_json

    if as_json:
        display.emit_json(message_json(task))
    else:
        display.emit(task_text(task))


def code_of(state: int) -> int:
    """0 for a completed task, 1 for every other."""
    from interlock.orchestrator.v1 import task_pb2

    return 0 if state == task_pb2.TASK_STATE_COMPLETED else 1


def filter_text(*, agent: str, state: str, extra: str, queue: str = "") -> str:
    """The filter that some options make together."""
    named = (("agent", agent), ("queue", queue), ("state", state))
    wanted = [f"{name} = {_quoted(value)}" for name, value in named if value]
    return " AND ".join([*wanted, *([extra] if extra else [])])


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _set_apart(max_failures: int, start: float, attempt: float, whole: float) -> "dict[str, Any]":
    """The fields of a submission that were given; the server says what is wrong with them."""
    from google.protobuf.duration_pb2 import Duration

    from interlock.registry.v1 import agent_pb2

    def clock(seconds: float) -> Duration:
        duration = Duration()
        duration.FromNanoseconds(round(seconds * 1e9))
        return duration

    clocks = {
        "schedule_to_start_timeout": start,
        "start_to_close_timeout": attempt,
        "schedule_to_close_timeout": whole,
    }
    fields: dict[str, Any] = {name: clock(seconds) for name, seconds in clocks.items() if seconds}
    if max_failures:
        fields["retry"] = agent_pb2.RetryPolicy(max_failures=max_failures)
    return fields


def _read(text: str) -> str:
    if text != "-" and not text.startswith("@"):
        return text
    try:
        data = sys.stdin.buffer.read() if text == "-" else Path(text[1:]).read_bytes()
        return data.decode("utf-8")
    except OSError as error:
        raise CliError(f"The input file cannot be read: {error}", "Give the name of a JSON file.") from None
    except UnicodeDecodeError as error:
        raise CliError(f"The input is not UTF-8: {error}", "JSON is UTF-8; convert the input.") from None


def _labels(pairs: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--label")
        labels[key] = value
    return labels
