"""Legal holds: what must not go from the audit log."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.problems import CliError
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.audit.v1 import retention_service_pb2 as messages

_KEEP = ("AUDITOR",)
_RELEASE = ("ADMIN",)


@click.group()
def hold() -> None:
    """Legal holds: contents that neither a sweep nor an erasure removes."""


@hold.command()
@click.option("--task", "task_id", default="", help="Entries of this task.")
@click.option("--agent", default="", help="Entries of this agent.")
@click.option("--actor", default="", help="Entries that this person or service caused.")
@click.option("--type", "kind", default="", help="Entries of this type, e.g. PROMPT.")
@click.option("--since", default="", metavar="TIME", help="Recorded then or later, as 2026-01-31T08:00:00Z.")
@click.option("--until", default="", metavar="TIME", help="Recorded before then.")
@click.option("--reason", required=True, help="Why. The log keeps it.")
@output_option
@click.pass_obj
def place(data_dir: str, /, *, reason: str, as_json: bool, **asked: str) -> None:
    """Hold the contents of all entries that the options select, also of those to come. Options narrow."""
    selector = _selector(**asked)

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client

        async with client(data_dir, *_KEEP) as suite:
            request = messages.PlaceHoldRequest(selector=selector, reason=reason)
            placed = (await suite.call(suite.retention.PlaceHold, request)).hold
        _show(placed, as_json=as_json)

    run(work)


@hold.command()
@click.argument("hold_id")
@click.option("--reason", required=True, help="Why. The log keeps it.")
@output_option
@click.pass_obj
def release(data_dir: str, hold_id: str, reason: str, *, as_json: bool) -> None:
    """Release a hold; what is overdue goes with the next sweep."""

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client

        async with client(data_dir, *_RELEASE) as suite:
            request = messages.ReleaseHoldRequest(hold_id=hold_id, reason=reason)
            released = (await suite.call(suite.retention.ReleaseHold, request)).hold
        _show(released, as_json=as_json)

    run(work)


@hold.command("list")
@click.option("--all", "everything", is_flag=True, help="With those that were released.")
@output_option
@click.pass_obj
def list_holds(data_dir: str, *, everything: bool, as_json: bool) -> None:
    """List holds, the newest first."""

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        found: list[messages.Hold] = []
        token = ""
        async with client(data_dir, *_KEEP) as suite:
            while True:
                request = messages.ListHoldsRequest(
                    page_size=1000, page_token=token, include_released=everything
                )
                page = await suite.call(suite.retention.ListHolds, request)
                found += page.holds
                token = page.next_page_token
                if not token:
                    break
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [(each.hold_id, _state(each), _selected(each), each.reason) for each in found]
        display.emit_table(("HOLD", "STATE", "OF", "REASON"), rows)

    run(work)


def _selector(
    *, task_id: str, agent: str, actor: str, kind: str, since: str, until: str
) -> "messages.HoldSelector":
    from interlock.audit.v1 import entry_pb2
    from interlock.audit.v1 import retention_service_pb2 as messages

    selector = messages.HoldSelector(task_id=task_id, agent=agent, actor=actor)
    if kind:
        try:
            selector.type = entry_pb2.EntryType.Value(f"ENTRY_TYPE_{kind.upper()}")
        except ValueError:
            raise CliError(
                f"There is no type {kind}.", "Types are e.g. PROMPT, TOOL_CALL, RESULT, ERROR."
            ) from None
    if since:
        selector.begin_time.FromDatetime(_time(since, "--since"))
    if until:
        selector.end_time.FromDatetime(_time(until, "--until"))
    return selector


def _time(text: str, option: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(f"{option} is no time: {text}", "Write it as 2026-01-31T08:00:00Z.") from None
    if when.tzinfo is None:
        raise CliError(f"{option} has no time zone: {text}", "Write it as 2026-01-31T08:00:00Z.")
    return when.astimezone(UTC)


def _show(hold: "messages.Hold", *, as_json: bool) -> None:
    from interlock.cli.message_json import message_json

    if as_json:
        display.emit_json(message_json(hold))
    else:
        display.emit(f"hold {hold.hold_id}  {_state(hold)}  {_selected(hold)}")


def _state(hold: "messages.Hold") -> str:
    return "RELEASED" if hold.HasField("release_time") else "HOLDS"


def _selected(hold: "messages.Hold") -> str:
    from interlock.audit.v1 import entry_pb2

    selector = hold.selector
    told = {
        "task": selector.task_id,
        "agent": selector.agent,
        "actor": selector.actor,
        "type": entry_pb2.EntryType.Name(selector.type).removeprefix("ENTRY_TYPE_") if selector.type else "",
        "since": display.short_time(selector.begin_time) if selector.HasField("begin_time") else "",
        "until": display.short_time(selector.end_time) if selector.HasField("end_time") else "",
    }
    return ", ".join(f"{name} {value}" for name, value in told.items() if value)
