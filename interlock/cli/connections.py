"""Connections: where agents' models and tools' databases are, who may use them, and at what price."""

import sys
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interlock.client.client import Client as _Suite
    from interlock.gateway.v1 import connection_service_pb2 as messages

_ROLES = ("ADMIN",)
_MICROS = 1_000_000
_CONTENT = (
    click.option("--url", default=None, help="Base URL, for example https://api.example.com/v1."),
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME[=IN,OUT]",
        help="A model, and what a million tokens in and out cost; give all of them.",
    ),
    click.option("--agent", "agents", multiple=True, help="An agent that may use it; give all of them."),
    click.option(
        "--statements",
        type=click.File("rb"),
        default=None,
        help='Of a database: a JSON file, {"statements": [{"name": …, "sql": …, "writes": …}, …]}.',
    ),
    click.option(
        "--tool-digest",
        "tool_digests",
        multiple=True,
        metavar="sha256:…",
        help="Of a database or HTTP origin: a tool version that may use it; give all of them.",
    ),
    click.option("--method", "methods", multiple=True, help="Of an HTTP origin: what tools may do."),
    click.option("--credential-header", default=None, help="Of an HTTP origin: where the credential goes."),
    click.option(
        "--private/--no-private", default=None, help="Whether it may be at a loopback or private address."
    ),
    click.option(
        "--max-per-minute",
        type=click.IntRange(min=0),
        default=None,
        help="Requests that may begin within a minute; 0 = any.",
    ),
    click.option(
        "--max-tokens-per-day",
        type=click.IntRange(min=0),
        default=None,
        help="Tokens in and out since midnight UTC; 0 = any.",
    ),
    click.option(
        "--max-cost-per-day",
        default=None,
        metavar="AMOUNT",
        help="What a day may cost, in the currency of the prices; 0 = anything.",
    ),
    click.option("--description", default=None, help="For people."),
)


@click.group(short_help="Connections to models, HTTP origins and databases.")
def connections() -> None:
    """Connections to language models, HTTP origins and databases: see, make, change, delete them."""


def _with_content(command: "Callable[..., None]") -> "Callable[..., None]":
    for option in reversed(_CONTENT):
        command = option(command)
    return command


@connections.command("list")
@output_option
@click.pass_obj
def list_connections(data_dir: str, *, as_json: bool) -> None:
    """List connections by id."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import connection_service_pb2 as messages

        found: list[messages.Connection] = []
        token = ""
        async with client(data_dir, *_ROLES) as suite:
            while True:
                request = messages.ListConnectionsRequest(page_size=1000, page_token=token)
                answer = await suite.call(suite.connections.ListConnections, request)
                found += answer.connections
                token = answer.next_page_token
                if not token:
                    break
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [
            (
                each.connection_id,
                each.base_url,
                ", ".join(model.name for model in each.models),
                ", ".join(each.agents) or "nobody",
                "yes" if each.has_credential else "no",
            )
            for each in found
        ]
        display.emit_table(("CONNECTION", "URL", "MODELS", "AGENTS", "CREDENTIAL"), rows)

    run(work)


@connections.command("get")
@click.argument("connection_id")
@output_option
@click.pass_obj
def get_connection(data_dir: str, connection_id: str, *, as_json: bool) -> None:
    """Show one connection; its credential is never shown."""

    async def ask(suite: "_Suite") -> "messages.Connection":
        from interlock.gateway.v1 import connection_service_pb2 as messages

        request = messages.GetConnectionRequest(connection_id=connection_id)
        return (await suite.call(suite.connections.GetConnection, request)).connection

    _show(data_dir, ask, as_json=as_json)


@connections.command("create")
@click.argument("connection_id")
@click.option(
    "--kind",
    type=click.Choice(["model", "http", "database"]),
    default="model",
    show_default=True,
    help="What it leads to.",
)
@_with_content
@output_option
@click.pass_obj
def create_connection(
    data_dir: str, /, connection_id: str, kind: str, *, as_json: bool, **content: Any
) -> None:
    """Make a connection to language models behind an OpenAI-compatible interface, or to a database."""

    async def ask(suite: "_Suite") -> "messages.Connection":
        from interlock.gateway.v1 import connection_service_pb2 as messages

        connection, _ = _asked(connection_id, content)
        connection.kind = messages.ConnectionKind.Value(f"CONNECTION_KIND_{kind.upper()}")
        request = messages.CreateConnectionRequest(connection=connection)
        return (await suite.call(suite.connections.CreateConnection, request)).connection

    _show(data_dir, ask, as_json=as_json)


@connections.command("update")
@click.argument("connection_id")
@_with_content
@click.option("--no-agents", is_flag=True, help="Let nobody use it.")
@click.option("--etag", default="", help="Refuse if somebody has changed it since; `get` shows it.")
@output_option
@click.pass_obj
def update_connection(
    data_dir: str, /, connection_id: str, etag: str, *, no_agents: bool, as_json: bool, **content: Any
) -> None:
    """Change what is given; the rest stays. Another host removes the credential."""

    async def ask(suite: "_Suite") -> "messages.Connection":
        from interlock.gateway.v1 import connection_service_pb2 as messages

        connection, paths = _asked(connection_id, content)
        if no_agents:
            del connection.agents[:]
            paths = sorted({*paths, "agents"})
        connection.etag = etag
        request = messages.UpdateConnectionRequest(connection=connection)
        request.update_mask.paths.extend(paths)
        return (await suite.call(suite.connections.UpdateConnection, request)).connection

    _show(data_dir, ask, as_json=as_json)


@connections.command("set-credential")
@click.argument("connection_id")
@click.option(
    "--file", type=click.File("rb"), default=None, help="Read it from a file; without it, from the input."
)
@click.option("--remove", is_flag=True, help="Remove the one that is stored.")
@output_option
@click.pass_obj
def set_credential(
    data_dir: str, connection_id: str, file: BinaryIO | None, *, remove: bool, as_json: bool
) -> None:
    """Store the provider's key, encrypted. It is read from the input or a file, never from an argument."""
    credential = "" if remove else _read_credential(file)

    async def ask(suite: "_Suite") -> "messages.Connection":
        from interlock.gateway.v1 import connection_service_pb2 as messages

        request = messages.SetConnectionCredentialRequest(connection_id=connection_id, credential=credential)
        return (await suite.call(suite.connections.SetConnectionCredential, request)).connection

    _show(data_dir, ask, as_json=as_json)


@connections.command("delete")
@click.argument("connection_id")
@click.option("--etag", default="", help="Refuse if somebody has changed it since; `get` shows it.")
@output_option
@click.pass_obj
def delete_connection(data_dir: str, connection_id: str, etag: str, *, as_json: bool) -> None:
    """Delete a connection with its credential."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.gateway.v1 import connection_service_pb2 as messages

        async with client(data_dir, *_ROLES) as suite:
            request = messages.DeleteConnectionRequest(connection_id=connection_id, etag=etag)
            await suite.call(suite.connections.DeleteConnection, request)
        if as_json:
            display.emit_json({"deleted": connection_id})
        else:
            display.emit(f"Deleted connection {connection_id}.")

    run(work)


def _read_credential(file: BinaryIO | None) -> str:
    if file is None and sys.stdin.isatty():
        prompted: str = click.prompt("Credential", hide_input=True)
        return prompted.strip()
    data = (file or sys.stdin.buffer).read(65536)
    try:
        credential = data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise click.UsageError("the credential must be ASCII text") from None
    if not credential:
        raise click.UsageError("the credential is empty; to remove the stored one: --remove")
    return credential


def _asked(connection_id: str, content: dict[str, Any]) -> "tuple[messages.Connection, list[str]]":
    """The connection as far as the options say, and which fields they say."""
    from interlock.gateway.v1 import connection_service_pb2 as messages

    fields = {
        "base_url": content["url"],
        "models": [_model(each) for each in content["models"]] or None,
        "agents": content["agents"] or None,
        "statements": _statements(content["statements"]),
        "tool_digests": content["tool_digests"] or None,
        "methods": content["methods"] or None,
        "credential_header": content["credential_header"],
        "allow_private_addresses": content["private"],
        "description": content["description"],
        "max_requests_per_minute": content["max_per_minute"],
        "max_tokens_per_day": content["max_tokens_per_day"],
        "max_cost_micros_per_day": _cost(content["max_cost_per_day"]),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return messages.Connection(connection_id=connection_id, **given), list(given)


def _statements(file: BinaryIO | None) -> "list[messages.DatabaseStatement] | None":
    if file is None:
        return None
    from google.protobuf.json_format import Parse, ParseError

    from interlock.gateway.v1 import connection_service_pb2 as messages

    try:
        read = Parse(file.read(), messages.Connection())
    except (ParseError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--statements: {error}") from None
    return list(read.statements)


def _model(text: str) -> "messages.ConnectionModel":
    from interlock.gateway.v1 import connection_service_pb2 as messages

    name, priced, prices = text.partition("=")
    try:
        cost_in, cost_out = map(_micros, prices.split(",")) if priced else (0, 0)
    except (ValueError, InvalidOperation):
        raise click.UsageError(f"--model {text}: prices are two numbers, NAME=IN,OUT") from None
    return messages.ConnectionModel(name=name, input_price_micros=cost_in, output_price_micros=cost_out)


def _cost(text: str | None) -> int | None:
    try:
        return None if text is None else _micros(text)
    except (ValueError, InvalidOperation):
        raise click.UsageError(f"--max-cost-per-day {text}: an amount like 12.50") from None


def _micros(text: str) -> int:
    micros = Decimal(text) * _MICROS
    if micros != micros.to_integral_value():
        raise ValueError
    return int(micros)


def _show(data_dir: str, ask: "Callable[[_Suite], Awaitable[messages.Connection]]", *, as_json: bool) -> None:
    async def work() -> "messages.Connection":
        from interlock.cli.connection import client

        async with client(data_dir, *_ROLES) as suite:
            return await ask(suite)

    found = run(work)
    if as_json:
        from interlock.cli.message_json import message_json

        display.emit_json(message_json(found))
        return
    display.emit(f"{found.connection_id}: {one_line(found.base_url)}")
    for model in found.models:
        cost_in, cost_out = model.input_price_micros / _MICROS, model.output_price_micros / _MICROS
        display.emit(
            f"  model {one_line(model.name)}: {cost_in:g} in, {cost_out:g} out, for a million tokens"
        )
    for statement in found.statements:
        how = "writes" if statement.writes else "reads"
        display.emit(f"  statement {statement.name} ({how}): {one_line(statement.sql)}")
    who, users = ("tools", found.tool_digests) if not found.models else ("agents", found.agents)
    display.emit(f"  {who}: {', '.join(users) or 'nobody'}")
    display.emit(f"  credential: {'stored' if found.has_credential else 'none'}")
    for quota in _quotas(found):
        display.emit(f"  at most {quota}")
    if found.disabled:
        display.emit("  disabled: nothing goes out through it")
    if found.allow_private_addresses:
        display.emit("  may be at a loopback or private address")
    display.emit(f"  etag: {found.etag}")


def _quotas(found: "messages.Connection") -> list[str]:
    quotas = (
        (found.max_requests_per_minute, "requests a minute"),
        (found.max_tokens_per_day, "tokens a day"),
        (found.max_cost_micros_per_day / _MICROS, "of cost a day"),
    )
    return [f"{most:,.10g} {what}" for most, what in quotas if most]
