"""Calls that wait for a person: see them, say yes or no."""

from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.gateway.v1 import approval_service_pb2 as messages

_READ = ("DEVELOPER",)


@click.group(short_help="Calls that wait for a person's yes.")
def approvals() -> None:
    """Calls of tools that wait for a person's yes; `interlock approve` and `interlock deny` decide."""


@approvals.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that are decided, expired or canceled.")
@click.option("--filter", "which", default="", help='For example: agent = "clerk" AND tool = "pay".')
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@output_option
@click.pass_obj
def list_approvals(data_dir: str, which: str, limit: int, *, everything: bool, as_json: bool) -> None:
    """List what waits for a decision, newest first."""
    pending = 'status = "PENDING"'
    chosen = which if everything else f"{which} AND {pending}" if which else pending

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import approval_service_pb2 as messages

        async with client(data_dir, *_READ) as suite:
            request = messages.ListApprovalsRequest(page_size=limit, filter=chosen)
            found = (await suite.call(suite.approvals.ListApprovals, request)).approvals
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [
            (each.approval_id, _status(each), each.agent, each.tool, each.submitter, _until(each))
            for each in found
        ]
        display.emit_table(("APPROVAL", "STATUS", "AGENT", "TOOL", "FOR", "UNTIL"), rows)

    run(work)


@approvals.command("show")
@click.argument("approval_id")
@output_option
@click.pass_obj
def show_approval(data_dir: str, approval_id: str, *, as_json: bool) -> None:
    """Show one approval with the exact arguments of its call."""

    async def work() -> "messages.Approval":
        from interlock.cli.connection import client
        from interlock.gateway.v1 import approval_service_pb2 as messages

        async with client(data_dir, *_READ) as suite:
            request = messages.GetApprovalRequest(approval_id=approval_id)
            return (await suite.call(suite.approvals.GetApproval, request)).approval

    _show(run(work), as_json=as_json)


@approvals.command("watch")
@output_option
@click.pass_obj
def watch_approvals(data_dir: str, *, as_json: bool) -> None:
    """Show what waits, and then each change as it happens, until Ctrl-C."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import approval_service_pb2 as messages

        async with client(data_dir, *_READ) as suite:
            wanted = messages.WatchApprovalsRequest()
            async for message in suite.stream(suite.approvals.WatchApprovals, wanted):
                for each in message.approvals:
                    if as_json:
                        display.emit_json(message_json(each))
                    else:
                        decider = f" by {one_line(each.decider)}" if each.decider else ""
                        display.emit(
                            f"{each.approval_id}  {_status(each)}{decider}"
                            f"  {one_line(each.agent)} calls {one_line(each.tool)}"
                        )

    run(work)


@click.command(short_help="Say yes to a call that waits for it.")
@click.argument("approval_id")
@click.option("--reason", default="", help="For the log.")
@output_option
@click.pass_obj
def approve(data_dir: str, approval_id: str, reason: str, *, as_json: bool) -> None:
    """Let exactly this call start, once; its task goes on by itself. See it first: approvals show."""
    _decide(data_dir, approval_id, "APPROVAL_DECISION_APPROVE", reason, as_json=as_json)


@click.command(short_help="Say no to a call that waits for a yes.")
@click.argument("approval_id")
@click.option("--reason", default="", help="For the log, and for the agent that asked.")
@output_option
@click.pass_obj
def deny(data_dir: str, approval_id: str, reason: str, *, as_json: bool) -> None:
    """Refuse this call; its task goes on by itself, and its agent is told."""
    _decide(data_dir, approval_id, "APPROVAL_DECISION_DENY", reason, as_json=as_json)


def _decide(data_dir: str, approval_id: str, decision: str, reason: str, *, as_json: bool) -> None:
    async def work() -> "messages.Approval":
        from interlock.cli.connection import client
        from interlock.gateway.v1 import approval_service_pb2 as messages

        # The highest that may be needed; a token of one's own has the roles that it has.
        async with client(data_dir, "ADMIN") as suite:
            request = messages.DecideApprovalRequest(
                approval_id=approval_id,
                decision=messages.ApprovalDecision.Value(decision),
                reason=reason,
            )
            return (await suite.call(suite.approvals.DecideApproval, request)).approval

    _show(run(work), as_json=as_json)


def _show(found: "messages.Approval", *, as_json: bool) -> None:
    if as_json:
        from interlock.cli.message_json import message_json

        display.emit_json(message_json(found))
        return
    lines = [
        ("approval", found.approval_id),
        ("status", _status(found)),
        ("agent", f"{found.agent} {found.agent_version}"),
        ("tool", f"{found.tool} {found.tool_version}"),
        ("arguments", found.arguments_json),
        ("for", found.submitter),
        ("task", f"{found.task_id}, step {found.step_key}"),
        ("asked by", ", ".join(found.policy_ids) or "the tool's version"),
        ("may decide", found.decider_role),
        ("until", display.short_time(found.expire_time)),
    ]
    if found.decider:
        said = f": {found.decision_reason}" if found.decision_reason else ""
        lines.append(("decided", f"by {found.decider} at {display.short_time(found.decide_time)}{said}"))
    for name, value in lines:
        if value:
            display.emit(f"{name:<10} {one_line(value)}")


def _status(found: "messages.Approval") -> str:
    from interlock.gateway.v1 import approval_service_pb2 as messages

    name = display.name_of(messages.ApprovalStatus.Name(found.status), "APPROVAL_STATUS_")
    return f"{name} (used)" if found.used else name


def _until(found: "messages.Approval") -> str:
    return display.short_time(found.expire_time)
