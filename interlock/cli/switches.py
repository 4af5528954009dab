"""The kill switch: agents, tools and connections, off and on again."""

from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.client.client import Client as _Suite
    from interlock.gateway.v1 import connection_service_pb2
    from interlock.registry.v1 import agent_pb2, tool_pb2

    _Switched = agent_pb2.Agent | tool_pb2.Tool | connection_service_pb2.Connection

_ROLES = {"agent": ("SUPER_ADMIN",), "tool": ("SUPER_ADMIN",), "connection": ("ADMIN",)}
_kind_argument = click.argument("kind", type=click.Choice(list(_ROLES)))


@click.command(short_help="Switch off an agent, a tool or a connection, and what runs.")
@_kind_argument
@click.argument("name")
@output_option
@click.pass_obj
def disable(data_dir: str, kind: str, name: str, *, as_json: bool) -> None:
    """Refuse every call of an agent, of a tool, or through a connection; those that run are ended."""
    _switch(data_dir, kind, name, active=False, as_json=as_json)


@click.command(short_help="Switch an agent, a tool or a connection on again.")
@_kind_argument
@click.argument("name")
@output_option
@click.pass_obj
def enable(data_dir: str, kind: str, name: str, *, as_json: bool) -> None:
    """Let an agent, a tool or a connection be used again."""
    _switch(data_dir, kind, name, active=True, as_json=as_json)


def _switch(data_dir: str, kind: str, name: str, *, active: bool, as_json: bool) -> None:
    async def work() -> "_Switched":
        from interlock.cli.connection import client

        async with client(data_dir, *_ROLES[kind]) as suite:
            return await _set(suite, kind, name, active=active)

    changed = run(work)
    if as_json:
        from interlock.cli.message_json import message_json

        display.emit_json(message_json(changed))
    else:
        display.emit(f"{kind} {name} is {'active' if active else 'disabled'}")


async def _set(suite: "_Suite", kind: str, name: str, *, active: bool) -> "_Switched":
    from interlock.gateway.v1 import connection_service_pb2
    from interlock.registry.v1 import registry_service_pb2, tool_pb2, tool_service_pb2

    status = tool_pb2.STATUS_ACTIVE if active else tool_pb2.STATUS_DISABLED
    if kind == "agent":
        of_agent = registry_service_pb2.SetAgentStatusRequest(name=name, status=status)
        return (await suite.call(suite.agents.SetAgentStatus, of_agent)).agent
    if kind == "tool":
        of_tool = tool_service_pb2.SetToolStatusRequest(name=name, status=status)
        return (await suite.call(suite.tools.SetToolStatus, of_tool)).tool
    connection = connection_service_pb2.Connection(connection_id=name, disabled=not active)
    request = connection_service_pb2.UpdateConnectionRequest(connection=connection)
    request.update_mask.paths.append("disabled")
    return (await suite.call(suite.connections.UpdateConnection, request)).connection
