"""Limits: how much of a tool, or of all tools of the tenant, may be called."""

import click

from interlock.cli import display
from interlock.cli.session import output_option, run

_ROLES = ("ADMIN",)
_EVERY_TOOL = "(all tools)"


@click.group(short_help="Limits of tool calls: see, set, remove them.")
def limits() -> None:
    """Limits of tool calls, whatever their publishers say: see, set, remove them."""


@limits.command("list")
@output_option
@click.pass_obj
def list_limits(data_dir: str, *, as_json: bool) -> None:
    """List limits by tool."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import limit_service_pb2 as messages

        found: list[messages.CallLimit] = []
        token = ""
        async with client(data_dir, *_ROLES) as suite:
            while True:
                request = messages.ListCallLimitsRequest(page_size=1000, page_token=token)
                answer = await suite.call(suite.limits.ListCallLimits, request)
                found += answer.limits
                token = answer.next_page_token
                if not token:
                    break
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [
            (each.tool or _EVERY_TOOL, str(each.max_running or "any"), str(each.max_per_minute or "any"))
            for each in found
        ]
        display.emit_table(("TOOL", "AT A TIME", "A MINUTE"), rows)

    run(work)


@limits.command("set")
@click.argument("tool", default="")
@click.option("--max-running", type=click.IntRange(min=0), default=0, help="Calls at a time; 0 = any.")
@click.option("--max-per-minute", type=click.IntRange(min=0), default=0, help="Calls in a minute; 0 = any.")
@output_option
@click.pass_obj
def set_limit(data_dir: str, tool: str, max_running: int, max_per_minute: int, *, as_json: bool) -> None:
    """Set the limit of a tool, or without one that of all tools together. Without numbers it is removed."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import limit_service_pb2 as messages

        limit = messages.CallLimit(tool=tool, max_running=max_running, max_per_minute=max_per_minute)
        async with client(data_dir, *_ROLES) as suite:
            request = messages.SetCallLimitRequest(limit=limit)
            stored = (await suite.call(suite.limits.SetCallLimit, request)).limit
        if as_json:
            display.emit_json(message_json(stored))
        else:
            running, minute = stored.max_running or "any", stored.max_per_minute or "any"
            display.emit(f"{stored.tool or _EVERY_TOOL}: {running} at a time, {minute} a minute")

    run(work)
