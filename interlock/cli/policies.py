"""Policies: which agent may call which tool on what conditions; see, change, try and delete them."""

from typing import TYPE_CHECKING, Any, TextIO

import click

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from google.protobuf.timestamp_pb2 import Timestamp

    from interlock.client.client import Client as _Suite
    from interlock.gateway.v1 import policy_service_pb2 as messages

_ROLES = ("ADMIN",)
_READ = ("DEVELOPER",)
_PAGE = 1000
_MODES = {"enforce": "POLICY_MODE_ENFORCE", "shadow": "POLICY_MODE_SHADOW"}
_NEVER = "never"


@click.group(short_help="Policies: see, set, try and delete them.")
def policies() -> None:
    """Policies: see, set, try and delete them. To let an agent call a tool: interlock allow."""


@policies.command("list")
@click.option("--tool", default="", help="Only those that name this tool.")
@output_option
@click.pass_obj
def list_policies(data_dir: str, tool: str, *, as_json: bool) -> None:
    """List policies by id."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *_READ) as suite:
            found = await naming(suite, tool)
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [
            (each.policy_id, str(each.version), _mode(each), _expiry(each), one_line(_about(each)))
            for each in found
        ]
        display.emit_table(("POLICY", "VERSION", "MODE", "UNTIL", "ABOUT"), rows)

    run(work)


@policies.command("get")
@click.argument("policy_id")
@click.option("--version", type=click.IntRange(min=1), default=0, help="A version instead of the current.")
@output_option
@click.pass_obj
def get_policy(data_dir: str, policy_id: str, version: int, *, as_json: bool) -> None:
    """Show one policy, also a version of one that was deleted."""

    async def ask(suite: "_Suite") -> "messages.Policy":
        from interlock.gateway.v1 import policy_service_pb2 as messages

        request = messages.GetPolicyRequest(policy_id=policy_id, version=version)
        return (await suite.call(suite.policies.GetPolicy, request)).policy

    _show(data_dir, ask, _READ, as_json=as_json)


@policies.command("versions")
@click.argument("policy_id")
@output_option
@click.pass_obj
def list_versions(data_dir: str, policy_id: str, *, as_json: bool) -> None:
    """List every version that a policy ever had, newest first."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import policy_service_pb2 as messages

        found: list[messages.Policy] = []
        token = ""
        async with client(data_dir, *_READ) as suite:
            while True:
                request = messages.ListPolicyVersionsRequest(
                    policy_id=policy_id, page_size=_PAGE, page_token=token
                )
                answer = await suite.call(suite.policies.ListPolicyVersions, request)
                found += answer.versions
                token = answer.next_page_token
                if not token:
                    break
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [
            (
                str(each.version),
                display.short_time(each.update_time),
                one_line(each.updater),
                _mode(each),
                _expiry(each),
                one_line(_about(each)),
            )
            for each in found
        ]
        display.emit_table(("VERSION", "SINCE", "BY", "MODE", "UNTIL", "ABOUT"), rows)

    run(work)


@policies.command("create")
@click.argument("policy_id")
@click.argument("file", type=click.File("r"))
@click.option("--description", default="", help="What it is for.")
@click.option("--shadow", is_flag=True, help="Let it decide nothing, and see what it would change.")
@click.option("--until", default="", metavar="TIME", help="When it expires, as 2026-01-31T08:00:00Z.")
@click.option("--dry-run", is_flag=True, help="Check it, store nothing.")
@output_option
@click.pass_obj
def create_policy(
    data_dir: str,
    policy_id: str,
    file: TextIO,
    description: str,
    until: str,
    *,
    shadow: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Store a policy written in Cedar; FILE may be `-`."""
    cedar = file.read()

    async def ask(suite: "_Suite") -> "messages.Policy":
        from interlock.gateway.v1 import policy_service_pb2 as messages

        policy = messages.Policy(
            policy_id=policy_id,
            cedar=cedar,
            description=description,
            mode=messages.PolicyMode.Value(_MODES["shadow" if shadow else "enforce"]),
            expire_time=time_of(until),
        )
        request = messages.CreatePolicyRequest(policy=policy, validate_only=dry_run)
        return (await suite.call(suite.policies.CreatePolicy, request)).policy

    _show(data_dir, ask, _ROLES, as_json=as_json)


@policies.command("update")
@click.argument("policy_id")
@click.option("--file", type=click.File("r"), default=None, help="The new text; `-` for the input.")
@click.option("--description", default=None, help="What it is for.")
@click.option("--mode", type=click.Choice(list(_MODES)), default=None, help="shadow: decide nothing.")
@click.option("--until", default=None, metavar="TIME", help=f"When it expires; `{_NEVER}`: it does not.")
@click.option("--etag", default="", help="Refuse if somebody has changed it since; `get` shows it.")
@click.option("--dry-run", is_flag=True, help="Check the change, store nothing.")
@output_option
@click.pass_obj
def update_policy(
    data_dir: str,
    /,
    policy_id: str,
    file: TextIO | None,
    etag: str,
    *,
    dry_run: bool,
    as_json: bool,
    **given: str | None,
) -> None:
    """Change what is given; the rest stays. The policy gets its next version."""
    cedar = file.read() if file is not None else None

    async def ask(suite: "_Suite") -> "messages.Policy":
        from interlock.gateway.v1 import policy_service_pb2 as messages

        mode, until = given["mode"], given["until"]
        fields: dict[str, Any] = {
            "cedar": cedar,
            "description": given["description"],
            "mode": messages.PolicyMode.Value(_MODES[mode]) if mode else None,
            "expire_time": time_of(until) if until not in (None, _NEVER) else None,
        }
        policy = messages.Policy(policy_id=policy_id, etag=etag, **fields)
        request = messages.UpdatePolicyRequest(policy=policy, validate_only=dry_run)
        named = [name for name, value in fields.items() if value is not None]
        request.update_mask.paths.extend([*named, "expire_time"] if until == _NEVER else named)
        return (await suite.call(suite.policies.UpdatePolicy, request)).policy

    _show(data_dir, ask, _ROLES, as_json=as_json)


@policies.command("delete")
@click.argument("policy_id")
@click.option("--etag", default="", help="Refuse if somebody has changed it since; `get` shows it.")
@output_option
@click.pass_obj
def delete_policy(data_dir: str, policy_id: str, etag: str, *, as_json: bool) -> None:
    """Delete a policy; its versions stay readable."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.gateway.v1 import policy_service_pb2 as messages

        async with client(data_dir, *_ROLES) as suite:
            request = messages.DeletePolicyRequest(policy_id=policy_id, etag=etag)
            await suite.call(suite.policies.DeletePolicy, request)
        if as_json:
            display.emit_json({"deleted": policy_id})
        else:
            display.emit(f"Deleted policy {policy_id}.")

    run(work)


@policies.command("changes")
@click.argument("policy_id")
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True, help="At most.")
@output_option
@click.pass_obj
def list_changes(data_dir: str, policy_id: str, limit: int, *, as_json: bool) -> None:
    """List the calls that a policy in shadow mode would have decided otherwise, newest first."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.cli.verdicts import shadow_line
        from interlock.gateway.v1 import gateway_service_pb2, policy_service_pb2

        async with client(data_dir, *_READ) as suite:
            wanted = policy_service_pb2.GetPolicyRequest(policy_id=policy_id)
            policy = (await suite.call(suite.policies.GetPolicy, wanted)).policy
            request = gateway_service_pb2.ListToolCallsRequest(
                page_size=limit, filter=f'shadow_policy = "{policy_id}@{policy.version}"'
            )
            found = (await suite.call(suite.gateway.ListToolCalls, request)).tool_calls
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        for call in found:
            display.emit(shadow_line(call))
        if not found:
            display.emit(f"Version {policy.version} of policy {policy_id} would have changed no call so far.")

    run(work)


async def naming(suite: "_Suite", tool: str, tool_version: str = "") -> "list[messages.Policy]":
    """Every policy, or those that name a tool; misfits are with that version of it, by default the newest."""
    from interlock.gateway.v1 import policy_service_pb2 as messages

    found: list[messages.Policy] = []
    token = ""
    while True:
        request = messages.ListPoliciesRequest(
            page_size=_PAGE, page_token=token, tool=tool, tool_version=tool_version
        )
        answer = await suite.call(suite.policies.ListPolicies, request)
        found += answer.policies
        token = answer.next_page_token
        if not token:
            return found


def misfit_lines(policy: "messages.Policy") -> "Iterator[str]":
    """Where it does not fit the tool that it names."""
    for each in policy.misfits:
        what = f"{each.tool} {each.tool_version}: {each.message}"
        yield f"policy {policy.policy_id} does not fit {one_line(what)}"


def time_of(given: str | None) -> "Timestamp | None":
    """A time that was given; None for none. Raises click.BadParameter."""
    from google.protobuf.timestamp_pb2 import Timestamp

    if not given:
        return None
    when = Timestamp()
    try:
        when.FromJsonString(given)
    except ValueError:
        said = f"{given!r} is no time such as 2026-01-31T08:00:00Z"
        raise click.BadParameter(said, param_hint="--until") from None
    return when


def _show(
    data_dir: str,
    ask: "Callable[[_Suite], Awaitable[messages.Policy]]",
    roles: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *roles) as suite:
            policy = await ask(suite)
        if as_json:
            display.emit_json(message_json(policy))
            return
        for line in _lines(policy):
            display.emit(line)

    run(work)


def _lines(policy: "messages.Policy") -> "Iterator[str]":
    yield f"policy   {policy.policy_id}, version {policy.version}, {_mode(policy)}"
    if policy.HasField("expire_time"):
        yield f"until    {_expiry(policy)}"
    yield f"since    {display.short_time(policy.update_time)}, by {one_line(policy.updater)}"
    if policy.description:
        yield f"about    {one_line(policy.description)}"
    yield f"etag     {policy.etag}"
    yield from map(one_line, policy.cedar.rstrip().splitlines())
    yield from misfit_lines(policy)


def _mode(policy: "messages.Policy") -> str:
    from interlock.gateway.v1 import policy_service_pb2 as messages

    return "shadow" if policy.mode == messages.POLICY_MODE_SHADOW else "enforce"


def _expiry(policy: "messages.Policy") -> str:
    if not policy.HasField("expire_time"):
        return "-"
    from datetime import UTC, datetime

    over = policy.expire_time.ToDatetime(UTC) <= datetime.now(UTC)
    return f"{display.short_time(policy.expire_time)}{' (over)' if over else ''}"


def _about(policy: "messages.Policy") -> str:
    about = policy.description or " ".join(policy.cedar.split())
    return f"{about} (does not fit its tool)" if policy.misfits else about
