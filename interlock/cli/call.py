"""`interlock call`: any public method with a JSON request: grpcurl with address and token filled in."""

import json
from typing import Any

import click

from interlock.cli import display
from interlock.cli.session import output_option, run

_ROLES = ("VIEWER", "DEVELOPER", "ADMIN", "SUPER_ADMIN", "AUDITOR", "SUBMITTER")


@click.command(short_help="Call any public method with JSON.")
@click.argument("service")
@click.argument("method", required=False)
@click.argument("request_json", default="{}", metavar="[JSON]")
@click.option("--role", default="DEVELOPER", type=click.Choice(_ROLES), show_default=True, help="Act as.")
@output_option
@click.pass_obj
def call(
    data_dir: str, service: str, method: str | None, request_json: str, role: str, *, as_json: bool
) -> None:
    """Call METHOD of SERVICE with a JSON request; without METHOD list what there is.

    SERVICE is orchestrator, registry, gateway or audit. Answers are JSON, with --output json one a line, and
    streamed ones are printed as they come.
    """

    async def work() -> None:
        from interlock.cli.calling import call_method, method_names
        from interlock.cli.connection import client

        if method is None:
            _list(method_names(service), as_json=as_json)
            return
        async with client(data_dir, role) as suite:
            async for answer in call_method(suite, service, method, request_json):
                _show(answer, as_json=as_json)

    run(work)


def _list(names: list[str], *, as_json: bool) -> None:
    if as_json:
        display.emit_json(names)
        return
    for name in names:
        display.emit(name)


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        display.emit_json(answer)
    else:
        display.emit(json.dumps(answer, indent=2, ensure_ascii=False))
