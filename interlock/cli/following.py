"""Following tasks: watch one or many, wait for one, list what has happened, count."""

import sys
from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.problems import CliError
from interlock.cli.session import output_option, run
from interlock.cli.tasks import code_of, filter_text, show_task

if TYPE_CHECKING:
    from interlock.orchestrator.v1 import orchestrator_service_pb2

_READ = ("VIEWER",)
_READ_PAYLOADS = ("DEVELOPER",)


@click.command(short_help="Follow a task live until it ends, or many tasks by a filter.")
@click.argument("task_id", required=False, default="")
@click.option(
    "--after",
    default=0,
    metavar="REVISION",
    type=click.IntRange(0),
    help="Of one task: begin after this revision instead of with a snapshot.",
)
@click.option("--agent", default="", help="Of many: tasks of this agent alone.")
@click.option("--queue", default="", help="Of many: tasks of this queue alone.")
@click.option("--state", default="", help="Of many: tasks in this state alone, for example RUNNING.")
@click.option("--filter", "extra", default="", help='Of many: a filter, for example: task_type = "nightly"')
@click.option("--cursor", default="", help="Of many: go on where an earlier watch of the same filter stood.")
@click.option("--from-now", is_flag=True, help="Of many: begin without the list as it is.")
@output_option
@click.pass_obj
def watch(
    data_dir: str,
    task_id: str,
    after: int,
    agent: str,
    queue: str,
    state: str,
    extra: str,
    cursor: str,
    *,
    from_now: bool,
    as_json: bool,
) -> int:
    """Follow TASK_ID live until it ends; exit code 1 unless it is COMPLETED.

    Without TASK_ID: follow all tasks that meet the filter, until interrupted. Takes itself up again when a
    service restarts.
    """
    wanted = filter_text(agent=agent, queue=queue, state=state, extra=extra)
    if not task_id:
        if after:
            raise click.UsageError("--after needs a TASK_ID; many tasks are taken up at a --cursor")
        return _watch_many(data_dir, wanted, cursor, from_now=from_now, as_json=as_json)
    if wanted or cursor or from_now:
        raise click.UsageError("a filter, --cursor and --from-now are for many tasks: leave out TASK_ID")
    return _watch_one(data_dir, task_id, after, as_json=as_json)


@click.command(short_help="Wait until a task has ended, and show it.")
@click.argument("task_id")
@click.option("--timeout", default=None, type=click.FloatRange(0), help="Seconds to wait; else for ever.")
@output_option
@click.pass_obj
def wait(data_dir: str, task_id: str, timeout: float | None, *, as_json: bool) -> int:
    """Wait until a task has ended, and show it with its result. Exit code 1 unless it is COMPLETED."""

    async def work() -> int:
        from interlock.cli.connection import client
        from interlock.client.watching import TERMINAL

        async with client(data_dir, *_READ_PAYLOADS) as suite:
            task = await suite.wait(task_id, timeout=timeout)
        if task.state not in TERMINAL:
            raise CliError(
                f"The task has not ended within {timeout:g} s.",
                f"It goes on. See: interlock get {task_id}",
                reason="TIMEOUT",
            )
        show_task(task, as_json=as_json)
        return code_of(task.state)

    return run(work)


@click.command(short_help="List what has happened to a task.")
@click.argument("task_id")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@click.option("--page-token", default="", help="Go on where an earlier list ended.")
@output_option
@click.pass_obj
def events(data_dir: str, task_id: str, limit: int, page_token: str, *, as_json: bool) -> None:
    """List the events of a task in order."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.events import event_line
        from interlock.cli.message_json import message_json
        from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

        request = messages.ListTaskEventsRequest(task_id=task_id, page_size=limit, page_token=page_token)
        async with client(data_dir, *_READ) as suite:
            answer = await suite.call(suite.tasks.ListTaskEvents, request)
        if as_json:
            display.emit_json(message_json(answer))
            return
        if answer.compact_revision:
            display.emit(f"(events up to revision {answer.compact_revision} are no longer kept)")
        for event in answer.events:
            display.emit(event_line(messages.WatchTaskResponse(event=event)))
        if answer.next_page_token:
            display.emit(f"\nMore: --page-token {answer.next_page_token}")

    run(work)


@click.command(short_help="Count tasks.")
@click.option("--agent", default="", help="Tasks of this agent alone.")
@click.option("--queue", default="", help="Tasks of this queue alone.")
@click.option("--state", default="", help="Tasks in this state alone, for example FAILED.")
@click.option("--filter", "extra", default="", help='A filter, for example: task_type = "nightly"')
@click.option("--limit", default=10_000, show_default=True, type=click.IntRange(1, 100_000), help="Up to.")
@output_option
@click.pass_obj
def count(
    data_dir: str, agent: str, queue: str, state: str, extra: str, limit: int, *, as_json: bool
) -> None:
    """Count tasks, no further than a limit."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

        wanted = filter_text(agent=agent, queue=queue, state=state, extra=extra)
        async with client(data_dir, *_READ) as suite:
            request = messages.CountTasksRequest(filter=wanted, limit=limit)
            answer = await suite.call(suite.tasks.CountTasks, request)
        if as_json:
            display.emit_json(message_json(answer))
        else:
            display.emit(f"{answer.count}{' and more' if answer.more else ''}")

    run(work)


def _watch_one(data_dir: str, task_id: str, after: int, *, as_json: bool) -> int:
    async def work() -> int:
        from interlock.cli.connection import client
        from interlock.cli.events import event_line
        from interlock.cli.message_json import message_json

        state = 0
        # What agents say may tell what went in and out of their steps.
        async with client(data_dir, *_READ_PAYLOADS) as suite:
            updates = suite.watch(task_id, after_revision=after, progress=True, interrupted=_say_interrupted)
            async for update in updates:
                state = update.snapshot.state or update.event.state or state
                if as_json:
                    display.emit_json(message_json(update))
                else:
                    display.emit(event_line(update))
            if not state:
                # Everything was known already; only how it ended was not.
                state = (await suite.get(task_id)).state
        return code_of(state)

    return run(work)


def _watch_many(data_dir: str, wanted: str, cursor: str, *, from_now: bool, as_json: bool) -> int:
    async def work() -> int:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *_READ) as suite:
            async for update in suite.watch_tasks(
                wanted, cursor=cursor, from_now=from_now, interrupted=_say_list_interrupted
            ):
                if as_json:
                    display.emit_json(message_json(update))
                else:
                    for line in _list_lines(update):
                        display.emit(line)
        return 0

    return run(work)


def _list_lines(update: "orchestrator_service_pb2.WatchTasksResponse") -> list[str]:
    from interlock.cli.events import event_line, state_name
    from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

    lines = [f"{task.task_id}  {state_name(task)}  {task.agent}" for task in update.snapshot.tasks]
    for change in update.changes.changes:
        line = event_line(messages.WatchTaskResponse(event=change.event))
        more = (
            f"  {change.entered.agent}" if change.HasField("entered") else "  (left)" if change.left else ""
        )
        lines.append(f"{change.event.task_id}  {line}{more}")
    return lines


def _say_interrupted(why: str, revision: int) -> None:
    _say(why, f"going on after revision {revision}" if revision else "going on with a fresh snapshot")


def _say_list_interrupted(why: str, cursor: str) -> None:
    _say(why, f"going on at cursor {cursor}" if cursor else "beginning anew with the list as it is")


def _say(why: str, then: str) -> None:
    from interlock.cli.escaping import one_line

    # Not to standard output: that holds the updates alone.
    print(f"(interrupted: {one_line(why)}; {then})", file=sys.stderr, flush=True)
