"""`interlock completion`: what a shell needs to complete commands and options."""

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

_SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script; for bash: eval "$(interlock completion bash)"."""
    made = _SHELLS[shell](ctx.find_root().command, {}, "interlock", "_INTERLOCK_COMPLETE")
    click.echo(made.source())
