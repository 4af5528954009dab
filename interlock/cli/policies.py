"""What an agent may call, and why a call was let pass or refused: allow, why."""

import click

from interlock.cli import display
from interlock.cli.cedar import policy_id_for, policy_text
from interlock.cli.session import output_option, run


@click.command(short_help="Let an agent call a tool.")
@click.argument("agent")
@click.argument("tool")
@click.option(
    "--when", default="", metavar="EXPR", help="A Cedar condition, e.g. 'context.arguments.rows <= 100'."
)
@click.option(
    "--approve",
    "approval",
    type=click.Choice(["DEVELOPER", "ADMIN"]),
    default=None,
    help="A person with this role at least has to say yes to each call.",
)
@click.option("--id", "policy_id", default="", help="Id of the policy; by default made from agent and tool.")
@click.option("--dry-run", is_flag=True, help="Check and print the policy, store nothing.")
@output_option
@click.pass_obj
def allow(
    data_dir: str,
    agent: str,
    tool: str,
    when: str,
    approval: str | None,
    policy_id: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Let AGENT call TOOL, on a condition if one is given. Nothing is allowed by default."""
    cedar = policy_text(agent, tool, when, approval or "")
    policy_id = policy_id or policy_id_for(agent, tool, when, approval or "")

    async def work() -> None:
        from interlock.cli.allowing import store_policy
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.gateway.v1 import policy_service_pb2 as messages

        policy = messages.Policy(policy_id=policy_id, cedar=cedar, description=f"{agent} may call {tool}")
        async with client(data_dir, "ADMIN") as suite:
            stored, new = await store_policy(suite, policy, dry_run=dry_run)
        if as_json:
            display.emit_json(message_json(stored))
            return
        what = "Would allow" if dry_run else "Allowed" if new else "Allowed already"
        display.emit(f"{what} by policy {policy_id}:\n{cedar}")

    run(work)


@click.command(short_help="Show the five verdicts on a tool call.")
@click.argument("call_id")
@output_option
@click.pass_obj
def why(data_dir: str, call_id: str, *, as_json: bool) -> None:
    """Show the five verdicts on a tool call: role, binding, allow, approval, reach."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.cli.verdicts import call_lines
        from interlock.gateway.v1 import gateway_service_pb2 as messages

        async with client(data_dir, "VIEWER") as suite:
            found = await suite.call(suite.gateway.GetToolCall, messages.GetToolCallRequest(call_id=call_id))
        if as_json:
            display.emit_json(message_json(found.tool_call))
            return
        for line in call_lines(found.tool_call):
            display.emit(line)

    run(work)


@click.command("cancel-call", short_help="End a running tool call.")
@click.argument("call_id")
@output_option
@click.pass_obj
def cancel_call(data_dir: str, call_id: str, *, as_json: bool) -> None:
    """End a running tool call with everything that its tool has started; its task goes on.

    The agent gets a failure of the tool, TOOL_CANCELED. To end a whole task: interlock cancel.
    """

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.cli.verdicts import call_lines
        from interlock.gateway.v1 import gateway_service_pb2 as messages

        async with client(data_dir, "DEVELOPER") as suite:
            ended = await suite.call(
                suite.gateway.CancelToolCall, messages.CancelToolCallRequest(call_id=call_id)
            )
        if as_json:
            display.emit_json(message_json(ended.tool_call))
            return
        for line in call_lines(ended.tool_call):
            display.emit(line)

    run(work)
