"""Two small commands: what can this host isolate, and run one tool as the gateway would."""

# ruff: noqa: T201  a command line prints

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from interlock_sandbox.errors import SandboxUnavailable
from interlock_sandbox.levels import IsolationLevel, SandboxStatus
from interlock_sandbox.limits import Limits
from interlock_sandbox.outcome import Outcome, OutcomeKind
from interlock_sandbox.probe import probe_now
from interlock_sandbox.program import ToolProgram
from interlock_sandbox.sandbox import Sandbox

_UNAVAILABLE = 69  # sysexits.h: a service that is needed is not there


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "probe":
        return _probe(as_json=options.json)
    try:
        given = dict(_argument(text) for text in options.inputs)
        source = Path(options.file).read_text()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _run(source, Path(options.file).name, given, options.entrypoint, options.seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m interlock_sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    probing = commands.add_parser(
        "probe", help="say what this host can isolate, and what to do about the rest"
    )
    probing.add_argument("--json", action="store_true", help="for machines")
    running = commands.add_parser("run", help="run one Python tool in the sandbox")
    running.add_argument("file", metavar="FILE")
    running.add_argument(
        "-i",
        dest="inputs",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="an argument; JSON, else text",
    )
    running.add_argument("--entrypoint", default="run", help="the function to call (default: run)")
    running.add_argument("--seconds", type=float, default=Limits().wall_seconds, help="time limit")
    return parser


def _argument(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ValueError(f"-i takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _probe(*, as_json: bool) -> int:
    status = probe_now()
    print(json.dumps(_as_data(status), indent=2) if as_json else _as_text(status))
    return 0 if status.level >= IsolationLevel.STANDARD else _UNAVAILABLE


def _as_data(status: SandboxStatus) -> dict[str, object]:
    return {
        "level": status.level.name,
        "interpreter": status.interpreter,
        "layers": [
            {"layer": layer.layer, "present": layer.present, "reason": layer.reason, "remedy": layer.remedy}
            for layer in status.layers
        ],
    }


def _as_text(status: SandboxStatus) -> str:
    lines = [f"isolation level {status.level.name} (Python {status.interpreter or 'not started'})"]
    for layer in status.layers:
        lines.append(f"  {'yes' if layer.present else 'NO ':<4}{layer.layer}")
        if not layer.present:
            lines += [f"        why:    {layer.reason}", f"        remedy: {layer.remedy}"]
    return "\n".join(lines)


def _run(source: str, filename: str, given: dict[str, object], entrypoint: str, seconds: float) -> int:
    try:
        program = ToolProgram(
            source=source,
            arguments_json=json.dumps(given).encode(),
            entrypoint=entrypoint,
            filename=filename,
        )
        outcome = asyncio.run(_run_once(program, Limits(wall_seconds=seconds)))
    except SandboxUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return _UNAVAILABLE
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _show(outcome)


async def _run_once(program: ToolProgram, limits: Limits) -> Outcome:
    async with Sandbox(limits=limits, spares=1) as sandbox:
        return await sandbox.run(program)


def _show(outcome: Outcome) -> int:
    """Result to stdout; everything else, made safe for a terminal, to stderr."""
    for name, captured in (("stdout", outcome.stdout), ("stderr", outcome.stderr)):
        if captured.data:
            cut = " (cut)" if captured.truncated else ""
            print(
                f"--- the tool's {name}{cut}\n{_printable(captured.data.decode(errors='replace'))}",
                file=sys.stderr,
            )
    if outcome.error is not None:
        text = outcome.error.traceback or f"{outcome.error.type}: {outcome.error.message}"
        print(f"{outcome.kind}: {_printable(text)}", file=sys.stderr)
    if outcome.result_json is not None:
        print(_printable(outcome.result_json.decode()))
    usage = outcome.usage
    print(
        f"{outcome.kind} at level {outcome.level.name}: {usage.wall_ms:.1f} ms, {usage.cpu_ms:.1f} ms CPU, "
        f"{usage.peak_rss_bytes / 2**20:.0f} MiB",
        file=sys.stderr,
    )
    return 0 if outcome.kind is OutcomeKind.COMPLETED else 1


def _printable(text: str) -> str:
    """Control characters escaped, so that a tool cannot drive the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
