"""What an agent may call, and why a call was let pass or refused: allow, why."""

from collections.abc import Iterable
from typing import Any

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
@click.option("--until", default="", metavar="TIME", help="When it ends, as 2026-01-31T08:00:00Z.")
@click.option("--shadow", is_flag=True, help="Allow nothing yet, and see what that would change.")
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
    until: str,
    policy_id: str,
    *,
    shadow: bool,
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
        from interlock.cli.policies import misfit_lines, time_of
        from interlock.gateway.v1 import policy_service_pb2 as messages

        policy = messages.Policy(
            policy_id=policy_id,
            cedar=cedar,
            description=f"{agent} may call {tool}",
            mode=messages.POLICY_MODE_SHADOW if shadow else messages.POLICY_MODE_ENFORCE,
            expire_time=time_of(until),
        )
        async with client(data_dir, "ADMIN") as suite:
            stored, new = await store_policy(suite, policy, dry_run=dry_run)
        if as_json:
            display.emit_json(message_json(stored))
            return
        what = "Would allow" if dry_run or shadow else "Allowed" if new else "Allowed already"
        display.emit(f"{what} by policy {policy_id}:\n{cedar}")
        for line in misfit_lines(stored):
            display.emit(line)

    run(work)


@click.command(short_help="Show the five verdicts on a tool call.")
@click.argument("call_id")
@click.option("--policies", is_flag=True, help="And the policies that had a say, as they stood then.")
@output_option
@click.pass_obj
def why(data_dir: str, call_id: str, *, policies: bool, as_json: bool) -> None:
    """Show the five verdicts on a tool call: role, binding, allow, approval, reach."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.cli.verdicts import call_lines, decision_lines
        from interlock.gateway.v1 import gateway_service_pb2 as messages
        from interlock.gateway.v1 import policy_service_pb2

        if policies:
            async with client(data_dir, "DEVELOPER") as suite:
                request = policy_service_pb2.ExplainDecisionRequest(call_id=call_id)
                told = await suite.call(suite.policies.ExplainDecision, request)
            _emit(message_json(told) if as_json else decision_lines(told))
            return
        async with client(data_dir, "VIEWER") as suite:
            found = await suite.call(suite.gateway.GetToolCall, messages.GetToolCallRequest(call_id=call_id))
        if as_json:
            display.emit_json(message_json(found.tool_call))
            return
        for line in call_lines(found.tool_call):
            display.emit(line)

    run(work)


@click.command(short_help="Say what would become of a call, and do nothing.")
@click.argument("agent")
@click.argument("tool", default="")
@click.argument("arguments", default="{}")
@click.option("--version", "agent_version", default="", help="Version of the agent; by default the newest.")
@click.option("--as", "submitter", default="", help="Who would have submitted the task; by default you.")
@click.option("--role", "roles", multiple=True, help="A role of that submitter; give all of them.")
@output_option
@click.pass_obj
def check(
    data_dir: str,
    agent: str,
    tool: str,
    arguments: str,
    agent_version: str,
    submitter: str,
    roles: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Say what would become of AGENT's call of TOOL with ARGUMENTS (JSON), and which policies say what.

    Without TOOL: which of its tools the agent may call at all. Exits with 1 where the call would be refused.
    """

    async def work() -> bool:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.cli.verdicts import allowed_lines, checked_lines
        from interlock.gateway.v1 import gateway_service_pb2 as messages

        async with client(data_dir, "DEVELOPER") as suite:
            if not tool:
                question = messages.ListAllowedToolsRequest(agent=agent, agent_version=agent_version)
                listed = await suite.call(suite.gateway.ListAllowedTools, question)
                _emit(message_json(listed) if as_json else allowed_lines(listed))
                return True
            asked = messages.CheckToolCallRequest(
                agent=agent,
                agent_version=agent_version,
                tool=tool,
                arguments_json=arguments,
                submitter=submitter,
                submitter_roles=roles,
            )
            found = await suite.call(suite.gateway.CheckToolCall, asked)
        _emit(message_json(found) if as_json else checked_lines(found))
        return found.allowed

    if not run(work):
        raise SystemExit(1)


def _emit(found: "dict[str, Any] | Iterable[str]") -> None:
    if isinstance(found, dict):
        display.emit_json(found)
        return
    for line in found:
        display.emit(line)


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
