"""`interlock trace`: what a task did, step by step, with the gateway's word on each call."""

import click

from interlock.cli import display
from interlock.cli.session import output_option, run


@click.command(short_help="Show what a task did, as a tree.")
@click.argument("task_id")
@click.option("--full", is_flag=True, help="Show inputs, outputs and reasons uncut.")
@output_option
@click.pass_obj
def trace(data_dir: str, task_id: str, *, full: bool, as_json: bool) -> None:
    """Show what a task did as a tree: steps, outcomes, isolation, audit positions."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.tracing import read_trace, trace_json, trace_lines

        async with client(data_dir, "DEVELOPER") as suite:
            found = await read_trace(suite, task_id)
        if as_json:
            display.emit_json(trace_json(found))
            return
        for line in trace_lines(found, full=full):
            display.emit(line)

    run(work)
