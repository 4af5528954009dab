"""The audit log: verify a task's trail on this machine, trusting the service in nothing, and search."""

from pathlib import Path

import click

from interlock.cli import display
from interlock.cli.erasing import erase, erasures
from interlock.cli.legal_holds import hold
from interlock.cli.retention import retention
from interlock.cli.session import output_option, run


@click.group()
def audit() -> None:
    """The audit log: verify what is recorded of a task, and search."""


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


@audit.command("trail")
@click.argument("task_id")
@output_option
@click.pass_obj
def audit_trail(data_dir: str, task_id: str, *, as_json: bool) -> int:
    """Show what a task did by the log alone, as a tree, with what the service can prove of each step.

    Exit code 1 unless all of it held. Who does not trust the service: interlock audit verify.
    """

    async def work() -> int:
        from interlock.cli.audit_trail import all_proven, read_steps, tree_lines
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, "AUDITOR") as suite:
            found = await read_steps(suite, task_id)
        if as_json:
            display.emit_json(message_json(found))
        else:
            for line in tree_lines(found):
                display.emit(line)
        return 0 if all_proven(found) else 1

    return run(work)


@audit.command()
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--payloads", is_flag=True, help="With prompts, arguments, results; the log records that.")
@click.option("--reason", default="", help="With --payloads: why they are read. The log keeps it.")
@output_option
@click.pass_obj
def export(data_dir: str, file: Path, reason: str, *, payloads: bool, as_json: bool) -> None:
    """Write the whole log to FILE, as lines of JSON.

    Whoever has the file and the log's key needs no suite: python -m interlock.verify FILE --key KEY
    """

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.log_export import export_log

        async with client(data_dir, "AUDITOR") as suite:
            written = await export_log(suite, file, payloads=payloads, reason=reason)
        if as_json:
            told = {
                "file": str(file),
                "entries": written.entries,
                "removed": written.removed,
                "key": written.key,
            }
            display.emit_json(told)
        else:
            removed = f", {written.removed:,} of them removed" if written.removed else ""
            display.emit(f"{written.entries:,} entries{removed} in {file}; key of the log: {written.key}")

    run(work)


@audit.command()
@output_option
@click.pass_obj
def completeness(data_dir: str, *, as_json: bool) -> int:
    """Tell whether the log has received everything that the services numbered. Exit code 1 if it has not.

    Which numbers are missing is told to tenant `system` alone, for they count over all tenants.
    """

    async def work() -> int:
        from interlock.audit.v1 import audit_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, "AUDITOR") as suite:
            request = messages.GetCompletenessRequest()
            found = (await suite.call(suite.audit.GetCompleteness, request)).producers
        if as_json:
            display.emit_json([message_json(each) for each in found])
        else:
            rows = []
            for each in found:
                gaps = ", ".join(f"{gap.first}-{gap.last}" for gap in each.gaps)
                said = f"{each.missing} missing {gaps}".strip() if each.missing else "complete"
                rows.append((each.producer, said, each.last_time.ToJsonString()))
            display.emit_table(("PRODUCER", "RECEIVED", "LAST HEARD OF"), rows)
        return 1 if any(each.missing for each in found) else 0

    return run(work)


@audit.command()
@click.option("--begin", type=click.IntRange(min=0), default=0, help="Index of the first entry.")
@click.option("--from-now", is_flag=True, help="Only what comes from now on.")
@click.option("--filter", "wanted", default="", help='For example type = "ERROR" AND agent = "clerk".')
@output_option
@click.pass_obj
def tail(data_dir: str, begin: int, wanted: str, *, from_now: bool, as_json: bool) -> None:
    """Follow the log: each entry once, in order, until Ctrl-C. It goes on by itself when the suite restarts.

    With -o json an entry a line; go on later with --begin and the index after the last one.
    """

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.entries import entry_json, entry_line

        def interrupted(why: str, index: int) -> None:
            click.echo(f"interrupted ({why}); goes on at #{index}", err=True)

        async with client(data_dir, "AUDITOR") as suite:
            async for update in suite.tail(wanted, begin=begin, from_now=from_now, interrupted=interrupted):
                for each in update.entries:
                    if as_json:
                        display.emit_json(entry_json(each))
                        continue
                    for line in entry_line(each):
                        display.emit(line)

    run(work)


@audit.command()
@click.argument("event_id")
@click.argument("part")
@click.option("--reason", required=True, help="Why it is read. The log keeps it.")
@click.pass_obj
def payload(data_dir: str, event_id: str, part: str, reason: str) -> None:
    """Print one content of an entry, byte for byte; the log records that.

    interlock audit payload EVENT arguments --reason "complaint 17" > arguments.json
    """

    async def work() -> None:
        from interlock.audit.v1 import audit_service_pb2 as messages
        from interlock.cli.connection import client

        request = messages.GetPayloadRequest(event_id=event_id, part=part, reason=reason)
        async with client(data_dir, "AUDITOR") as suite:
            found = await suite.call(suite.audit.GetPayload, request)
        click.echo(found.payload.body, nl=False)

    run(work)


@audit.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@output_option
@click.pass_obj
def tiles(data_dir: str, folder: Path, *, as_json: bool) -> None:
    """Write the log to FOLDER as tiles (c2sp.org/tlog-tiles), without contents, or bring one up to date.

    Tools of others read that: tlog-tiles get-leaf --check FOLDER 0
    """

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.log_export import export_tiles

        async with client(data_dir, "AUDITOR") as suite:
            written = await export_tiles(suite, folder)
        if as_json:
            told = {
                "folder": str(folder),
                "entries": written.entries,
                "new": written.new,
                "removed": written.removed,
                "key": written.key,
            }
            display.emit_json(told)
        else:
            new = f"{written.new:,} read now"
            new += f" ({written.removed:,} of them removed from the log)" if written.removed else ""
            display.emit(f"{written.entries:,} entries in {folder}, {new}; key of the log: {written.key}")

    run(work)


@audit.command()
@click.argument("event_id")
@click.option("--leaf", is_flag=True, help="Print what is proven, the leaf's bytes, and not the proof.")
@click.pass_obj
def proof(data_dir: str, event_id: str, *, leaf: bool) -> None:
    """Print the proof that the log holds an entry, as a text that needs nothing else (c2sp.org/tlog-proof).

    interlock audit proof EVENT > entry.tlog-proof
    """

    async def work() -> None:
        from interlock.audit.v1 import audit_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.verify.proof_text import write_proof

        async with client(data_dir, "AUDITOR") as suite:
            found = await suite.call(suite.audit.GetEntry, messages.GetEntryRequest(event_id=event_id))
        text = write_proof(found.proof.index, found.proof.hashes, found.checkpoint.note)
        click.echo(found.entry.leaf if leaf else text, nl=False)

    run(work)


@audit.command("rotate-key")
@output_option
@click.pass_obj
def rotate_key(data_dir: str, *, as_json: bool) -> None:
    """Make a new key that signs the checkpoints of all logs; the old one names it, in an entry of each.

    Who has pinned the old key is led to the new one by: interlock audit verify; python -m interlock.verify.
    """

    async def work() -> None:
        from interlock.audit.v1 import audit_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, "SUPER_ADMIN", tenant="system") as suite:
            made = await suite.call(suite.audit.RotateKey, messages.RotateKeyRequest())
        if as_json:
            display.emit_json(message_json(made))
        else:
            display.emit(f"Key number {made.number} signs checkpoints from now on; {made.logs} logs say so.")

    run(work)


@audit.command("check-log")
@output_option
@click.pass_obj
def check_log(data_dir: str, *, as_json: bool) -> int:
    """Have the service hold all that it stores of the log against the tree and its signed root.

    Exit code 1 unless everything held. Who does not trust the service: interlock audit verify.
    """

    async def work() -> int:
        from interlock.cli.connection import client
        from interlock.cli.log_check import checked_log, report_json, report_lines

        async with client(data_dir, "AUDITOR") as suite:
            report = await checked_log(suite, progress=None if as_json else display.emit)
        if as_json:
            display.emit_json(report_json(report))
        else:
            for line in report_lines(report):
                display.emit(line)
        return 0 if report.ok else 1

    return run(work)


@audit.command()
@click.option("--agent", default="", help="Of this agent.")
@click.option("--task", "task_id", default="", help="Of this task.")
@click.option("--type", "kind", default="", help="Of this type, e.g. TOOL_CALL, ERROR, POLICY_CHANGE.")
@click.option("--tool", default="", help="Of this tool.")
@click.option("--actor", default="", help="Caused by this person or service.")
@click.option("--status", default="", help="With this outcome or state, e.g. REFUSED.")
@click.option("--since", default="", metavar="TIME", help="Recorded then or later, as 2026-01-31T08:00:00Z.")
@click.option("--until", default="", metavar="TIME", help="Recorded before then.")
@click.option("--filter", "more", default="", help='Any filter, e.g. producer = "gateway".')
@click.option(
    "--text", default="", help='With these words in a content; "in quotes" side by side. Needs --reason.'
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most.")
@click.option("--payloads", is_flag=True, help="With prompts, arguments, results; the log records that.")
@click.option("--reason", default="", help="With --payloads or --text: why they are read. The log keeps it.")
@output_option
@click.pass_obj
def search(
    data_dir: str,
    /,
    since: str,
    until: str,
    more: str,
    text: str,
    limit: int,
    reason: str,
    *,
    payloads: bool,
    as_json: bool,
    **named: str,
) -> None:
    """Search the log, newest first. Options narrow each other."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.entries import entry_json, entry_line, filter_of, found_entries

        wanted = filter_of(named, since=since, until=until, more=more)
        async with client(data_dir, "AUDITOR") as suite:
            found = found_entries(suite, wanted, text=text, limit=limit, payloads=payloads, reason=reason)
            if as_json:
                display.emit_json([entry_json(each) async for each in found])
                return
            async for each in found:
                for line in entry_line(each):
                    display.emit(line)

    run(work)


audit.add_command(erase)
audit.add_command(erasures)
audit.add_command(hold)
audit.add_command(retention)


def default_pins(data_dir: str | Path) -> Path:
    """Where this reader keeps its pins of the suite in `data_dir`: outside of it, so that they survive it."""
    folder = Path(data_dir).absolute()
    return folder.parent / f"{folder.name}-audit-pins.json"
