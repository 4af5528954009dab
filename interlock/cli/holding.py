"""Tasks that stand still, and those that were given up: pause, resume, answer, redrive."""

import uuid
from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.session import output_option, run
from interlock.cli.tasks import show_task

if TYPE_CHECKING:
    from interlock.orchestrator.v1 import task_pb2

_WRITE = ("DEVELOPER",)


@click.command(short_help="Make a task stand still.")
@click.argument("task_id")
@output_option
@click.pass_obj
def pause(data_dir: str, task_id: str, *, as_json: bool) -> None:
    """Make a task stand still: at once when no attempt runs, else at its next step."""

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            return await suite.pause(task_id)

    show_task(run(work), as_json=as_json)


@click.command(short_help="Let a paused task go on.")
@click.argument("task_id")
@output_option
@click.pass_obj
def resume(data_dir: str, task_id: str, *, as_json: bool) -> None:
    """Let a paused task go on, before all others of its class."""

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            return await suite.resume(task_id)

    show_task(run(work), as_json=as_json)


@click.command(short_help="Answer what a task asks.")
@click.argument("task_id")
@click.argument("value")
@click.option("--input", "input_id", default="", help="Which request; empty: the one that it waits for.")
@output_option
@click.pass_obj
def answer(data_dir: str, task_id: str, value: str, input_id: str, *, as_json: bool) -> None:
    """Answer what a task has asked for, so that it goes on. VALUE is JSON, such as true or '"a text"'.

    `interlock get` shows the question and the JSON Schema that the answer has to fit.
    """

    async def work() -> "task_pb2.Task":
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            return await suite.answer(task_id, value, input_id=input_id)

    show_task(run(work), as_json=as_json)


@click.command(short_help="Repeat dead letters.")
@click.option("--filter", "which", default="", help='Which, for example: agent = "csv-analyst"; all without.')
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 500), help="At most so many.")
@click.option("--request-id", default="", help="A UUID; a repeat answers the same tasks.")
@click.option("--dry-run", is_flag=True, help="Make no task; say how many it would be.")
@output_option
@click.pass_obj
def redrive(data_dir: str, which: str, limit: int, request_id: str, *, dry_run: bool, as_json: bool) -> None:
    """Make new tasks from dead letters: failed ones that a repeat might mend and that nobody has repeated."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

        request = messages.RedriveTasksRequest(
            filter=which,
            max_tasks=limit,
            request_id=request_id or str(uuid.uuid4()),
            validate_only=dry_run,
        )
        async with client(data_dir, *_WRITE) as suite:
            answer = await suite.call(suite.tasks.RedriveTasks, request)
        if as_json:
            display.emit_json(message_json(answer))
            return
        left_out = f"; {answer.inactive} left out, as their agent is not active" if answer.inactive else ""
        more = "; there are more" if answer.more else ""
        display.emit(
            f"{answer.count} dead letters {'to be repeated' if dry_run else 'repeated'}{left_out}{more}"
        )
        for task_id in answer.task_ids:
            display.emit(task_id)

    run(work)
