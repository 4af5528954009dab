"""What the command says when something went wrong: what, why, and what to do."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from interlock.cli.escaping import json_line, one_line, printable

# For programs: the command was called wrongly.
USAGE = "USAGE"


@dataclass(eq=False)
class CliError(Exception):
    """Shown without a traceback; `fix` is one sentence on what to do."""

    message: str
    fix: str = ""
    reason: str = ""  # for programs: a name of the contract's ErrorReason, or empty
    violations: Sequence[tuple[str, str]] = ()  # (field, what is wrong)
    request_id: str = ""
    exit_code: int = 1


def show(error: CliError, *, as_json: bool) -> None:
    """To standard error, as text or as one line of JSON."""
    print(error_text(error, as_json=as_json), file=sys.stderr)


def error_text(error: CliError, *, as_json: bool) -> str:
    """What is shown."""
    return _json(error) if as_json else _text(error)


def _json(error: CliError) -> str:
    return json_line(
        {
            "error": {
                "message": error.message,
                "reason": error.reason,
                "violations": [{"field": field, "message": message} for field, message in error.violations],
                "fix": error.fix,
                "request_id": error.request_id,
            }
        }
    )


def _text(error: CliError) -> str:
    reason = f"{error.reason}: " if error.reason else ""
    lines = [f"Error: {reason}{printable(error.message)}"]
    # The message of several violations repeats them; one to a line is easier to read.
    if len(error.violations) > 1:
        lines += [f"  {one_line(field)}: {one_line(message)}" for field, message in error.violations]
    if error.fix:
        lines.append(printable(error.fix))
    if error.request_id:
        lines.append(f"(request {one_line(error.request_id)})")
    return "\n".join(lines)
