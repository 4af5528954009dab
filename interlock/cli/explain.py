"""Why a task is where it is."""

from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages


@click.command(short_help="Say why a task waits, and for how long it might.")
@click.argument("task_id")
@output_option
@click.pass_obj
def explain(data_dir: str, task_id: str, *, as_json: bool) -> None:
    """Say why a task is where it is: its place in its queue, what holds it back, when it might start."""

    async def work() -> "messages.ExplainTaskResponse":
        from interlock.cli.connection import client
        from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages

        async with client(data_dir, "VIEWER") as suite:
            request = messages.ExplainTaskRequest(task_id=task_id)
            return await suite.call(suite.tasks.ExplainTask, request)

    found = run(work)
    if as_json:
        from interlock.cli.message_json import message_json

        display.emit_json(message_json(found))
    else:
        for line in _lines(found):
            display.emit(line)


def _lines(found: "messages.ExplainTaskResponse") -> list[str]:
    from interlock.cli.events import state_name
    from interlock.orchestrator.v1 import task_pb2

    where = task_pb2.TaskEvent(state=found.state, wait_reason=found.wait_reason)
    lines = [f"state     {state_name(where)}"]
    if found.position:
        lines.append(f"position  {'at least ' if found.position_is_minimum else ''}{found.position}")
    for blocker in found.blockers:
        until = f" (until {display.short_time(blocker.until)})" if blocker.HasField("until") else ""
        lines.append(f"blocked   {one_line(blocker.message)}{until}")
    estimate = found.estimate
    when = display.short_time(estimate.start_time) if estimate.HasField("start_time") else "not known"
    lines.append(f"starts    {when}: {one_line(estimate.basis)}")
    return lines
