"""The `interlock` command as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]

Done = subprocess.CompletedProcess[str]

# Whatever the shell of the tests says of other suites.
_OURS = "INTERLOCK_"


def environment(**settings: str) -> dict[str, str]:
    """Our packages, the ports of these tests, these settings; nothing from the folder it stands in."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name == "INTERLOCK_PORTS_FROM" or not name.startswith(_OURS)
    }
    return {**inherited, "PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1", **settings}


def argv(*arguments: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "interlock.cli", *arguments]


def interlock(*arguments: str, stdin: str = "", **settings: str) -> Done:
    """Run it to its end."""
    return subprocess.run(
        argv(*arguments),
        input=stdin,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def document(done: Done) -> Any:
    """The one JSON document that a command printed, having said nothing else."""
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    return json.loads(done.stdout)


def error_of(done: Done) -> dict[str, Any]:
    """The error that a command printed as JSON, having printed nothing to standard output."""
    assert done.returncode != 0, done.stdout
    assert not done.stdout
    said: dict[str, Any] = json.loads(done.stderr)["error"]
    return said
