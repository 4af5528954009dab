"""The command's root: names its commands, loads the one that is asked for, shows what went wrong."""

import importlib
import itertools
import signal
import sys
from collections.abc import Sequence

import click

from interlock import __version__
from interlock.cli.problems import USAGE, CliError, show

# Name → where it stands. Loaded when asked for, so that `interlock --help` does not wait for grpc.
COMMANDS = {
    "up": "interlock.cli.suite:up",
    "demo": "interlock.cli.suite:demo",
    "doctor": "interlock.cli.suite:doctor",
    "token": "interlock.cli.suite:token",
    "submit": "interlock.cli.tasks:submit",
    "watch": "interlock.cli.following:watch",
    "wait": "interlock.cli.following:wait",
    "get": "interlock.cli.tasks:get",
    "list": "interlock.cli.tasks:list_tasks",
    "events": "interlock.cli.following:events",
    "count": "interlock.cli.following:count",
    "metrics": "interlock.cli.metrics:metrics",
    "cancel": "interlock.cli.tasks:cancel",
    "pause": "interlock.cli.holding:pause",
    "resume": "interlock.cli.holding:resume",
    "answer": "interlock.cli.holding:answer",
    "retry": "interlock.cli.tasks:retry",
    "redrive": "interlock.cli.holding:redrive",
    "explain": "interlock.cli.explain:explain",
    "queues": "interlock.cli.queues:queues",
    "workers": "interlock.cli.queues:workers",
    "blobs": "interlock.cli.blobs:blobs",
    "trace": "interlock.cli.trace:trace",
    "agents": "interlock.cli.registry:agents",
    "tools": "interlock.cli.registry:tools",
    "allow": "interlock.cli.permission:allow",
    "policies": "interlock.cli.policies:policies",
    "approvals": "interlock.cli.approvals:approvals",
    "approve": "interlock.cli.approvals:approve",
    "deny": "interlock.cli.approvals:deny",
    "connections": "interlock.cli.connections:connections",
    "limits": "interlock.cli.limits:limits",
    "disable": "interlock.cli.switches:disable",
    "enable": "interlock.cli.switches:enable",
    "why": "interlock.cli.permission:why",
    "check": "interlock.cli.permission:check",
    "cancel-call": "interlock.cli.permission:cancel_call",
    "audit": "interlock.cli.audit:audit",
    "call": "interlock.cli.call:call",
    "completion": "interlock.cli.completion:completion",
    "version": "interlock.cli.suite:version",
}
_INTERRUPTED = 128 + signal.SIGINT


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names, in the order a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now."""
        where = COMMANDS.get(cmd_name)
        if where is None:
            return None
        module, name = where.split(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, message="interlock %(version)s")
@click.option(
    "--data-dir",
    envvar="INTERLOCK_DATA_DIR",
    default=".interlock",
    show_default=True,
    help="The data folder of the suite to talk to.",
)
@click.pass_context
def interlock(ctx: click.Context, data_dir: str) -> None:
    """Run AI agents under control: every call checked, sandboxed and provably logged."""
    ctx.obj = data_dir


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 failed, 2 asked wrongly, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return interlock.main(given, prog_name="interlock", standalone_mode=False) or 0
    except click.exceptions.Abort:
        return _INTERRUPTED
    except click.ClickException as error:
        if _wants_json(given):
            show(_usage(error), as_json=True)
        else:
            error.show()
        return error.exit_code
    except CliError as error:
        show(error, as_json=_wants_json(given))
        return error.exit_code


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether JSON was asked for, also by a command line that click could not make sense of."""
    if "--output=json" in arguments or "-ojson" in arguments:
        return True
    return any(
        option in ("-o", "--output") and value == "json" for option, value in itertools.pairwise(arguments)
    )


def _usage(error: click.ClickException) -> CliError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "interlock"
    return CliError(error.format_message(), f"See: {where} --help", reason=USAGE)
