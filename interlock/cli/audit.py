"""`interlock audit verify`: checks a task's trail on this machine, trusting the service in nothing."""

from pathlib import Path

import click

from interlock.cli import display
from interlock.cli.session import output_option, run


@click.group()
def audit() -> None:
    """The audit log: verify what is recorded of a task."""


@audit.command()
@click.argument("task_id")
@click.option(
    "--pins",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of pinned keys and checkpoints.  [default: DATA-DIR-audit-pins.json beside the data folder]",
)
@output_option
@click.pass_obj
def verify(data_dir: str, task_id: str, pins: Path | None, *, as_json: bool) -> int:
    """Verify the audit trail of a task offline: every entry, its place in the log, the log's own history.

    Exit code 1 unless everything held.
    """

    async def work() -> int:
        from interlock.cli.connection import client
        from interlock.cli.verification import report_json, report_lines, verify_task

        async with client(data_dir, "AUDITOR") as suite:
            verified = await verify_task(suite, task_id, pins or default_pins(data_dir))
        if as_json:
            display.emit_json(report_json(verified))
        else:
            for line in report_lines(verified):
                display.emit(line)
        return 0 if verified.ok else 1

    return run(work)


def default_pins(data_dir: str | Path) -> Path:
    """Where this reader keeps its pins of the suite in `data_dir`: outside of it, so that they survive it."""
    folder = Path(data_dir).absolute()
    return folder.parent / f"{folder.name}-audit-pins.json"
