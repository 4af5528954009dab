"""The suite itself: up, demo, doctor, token, version."""

import importlib
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

import click

import interlock
from interlock import __version__
from interlock.cli import display
from interlock.cli.problems import CliError
from interlock.cli.session import Suite, output_option

_ROLES = ("VIEWER", "DEVELOPER", "ADMIN", "SUPER_ADMIN", "AUDITOR", "SUBMITTER", "WORKER")
_LEVELS = ("debug", "info", "warning", "error")


@click.command(short_help="Start everything on this machine.")
@click.option("--port-base", type=int, help="First of the suite's ports.  [default: 7460, or the next free]")
@click.option("--database-url", default="", help="An administrator's URL of a PostgreSQL of your own.")
@click.option("--redis-url", default="", help="A Redis or Valkey of your own.")
@click.option(
    "--orchestrators",
    type=click.IntRange(1, 4),
    default=1,
    show_default=True,
    help="Replicas on one database.",
)
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True, help="Worker processes.")
@click.option("--log-level", type=click.Choice(_LEVELS), default="info", show_default=True)
@output_option
@click.pass_obj
def up(
    data_dir: str,
    port_base: int | None,
    database_url: str,
    redis_url: str,
    orchestrators: int,
    workers: int,
    log_level: str,
    *,
    as_json: bool,
) -> None:
    """Start everything on this machine and stay in the foreground; Ctrl-C stops it in order."""
    options = ["--log-level", log_level, *_output(as_json=as_json)]
    options += ["--orchestrators", str(orchestrators), "--workers", str(workers)]
    if port_base is not None:
        options += ["--port-base", str(port_base)]
    if database_url:
        options += ["--database-url", database_url]
    if redis_url:
        options += ["--redis-url", redis_url]
    _become("up", data_dir, *options)


@click.command(short_help="Show a real agent at work on a CSV file.")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", is_flag=True, help="A language model on this machine works on a sentence instead.")
@click.option("--port-base", type=int, help="First of the ports, where it starts a suite.  [default: as up]")
@output_option
@click.pass_obj
def demo(data_dir: str, file: Path | None, port_base: int | None, *, model: bool, as_json: bool) -> None:
    """Show a real agent at work on a CSV FILE, from submit to a verified audit trail.

    Without FILE it works on a table of moons. It uses the suite that runs in the data folder, or starts one
    for as long as it takes. Exit code 0 only if everything held that it shows.
    """
    if model and file is not None:
        raise click.UsageError("a FILE is for the demo without --model")
    options = [*_output(as_json=as_json), *(["--model"] if model else [])]
    if port_base is not None:
        options += ["--port-base", str(port_base)]
    _become("demo", data_dir, *options, *(["--", str(file)] if file is not None else []))


@click.command(short_help="Say whether this machine can run a suite.")
@output_option
@click.pass_obj
def doctor(data_dir: str, *, as_json: bool) -> int:
    """Say whether this machine can run a suite, and what to do about what is missing."""
    _require_suite()
    # By name: the client package stays free of the services'.
    findings = importlib.import_module("interlock_suite.doctor").examine(Path(data_dir))
    if as_json:
        display.emit_json(findings)
    else:
        for each in findings:
            display.emit(f"{'✓' if each['ok'] else '✗'} {each['name']:<12}  {each['found']}")
            if each["fix"]:
                display.emit(f"  {'':<12}  {each['fix']}")
    return 0 if all(each["ok"] for each in findings) else 1


@click.command(short_help="Print a token of the running suite's own issuer.")
@click.option("--role", "roles", multiple=True, type=click.Choice(_ROLES), help="A role; may be repeated.")
@click.option("--tenant", default="default", show_default=True, help="Tenant of the token.")
@click.option(
    "--ttl", default=3600, show_default=True, type=click.IntRange(1), help="Seconds it is good for."
)
@output_option
@click.pass_obj
def token(data_dir: str, roles: tuple[str, ...], tenant: str, ttl: int, *, as_json: bool) -> None:
    """Print a token of the running suite's own issuer; DEVELOPER unless --role says otherwise."""
    minted = Suite(data_dir).ask(
        {"op": "token", "roles": list(roles) or ["DEVELOPER"], "tenant": tenant, "ttl": ttl}
    )
    if as_json:
        display.emit_json(minted)
    else:
        display.emit(str(minted["token"]))


@click.command()
@output_option
def version(*, as_json: bool) -> None:
    """Print the version."""
    facts: dict[str, Any] = {
        "interlock": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    if as_json:
        display.emit_json(facts)
    else:
        display.emit(f"interlock {__version__} (Python {facts['python']}, {facts['platform']})")


def _output(*, as_json: bool) -> list[str]:
    return ["--output", "json" if as_json else "text"]


def _become(command: str, data_dir: str, *arguments: str) -> None:
    """Go on as the suite's own program: the client package stays free of the services'."""
    _require_suite()
    argv = [sys.executable, "-m", "interlock_suite", command, "--data-dir", data_dir, *arguments]
    os.execve(sys.executable, argv, _environment())  # noqa: S606 - our own interpreter and module


def _environment() -> dict[str, str]:
    """The packages that this command was imported from, and nothing from the folder it was called in."""
    packages = str(Path(interlock.__file__).parent.parent)
    further = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([packages, further]) if further else packages
    return {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": path}


def _require_suite() -> None:
    if importlib.util.find_spec("interlock_suite") is None:
        raise CliError(
            "Only the client is installed here.", "Install the suite with: pip install 'interlock[suite]'"
        )
