"""Running a program without being root."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3", sys.executable)


def readable_interpreter() -> str:
    """A Python of at least 3.11 that an ordinary user can run with this checkout; skips without one."""
    check = "import sys, interlock_sandbox; raise SystemExit(sys.version_info < (3, 11))"
    for python in INTERPRETERS:
        if Path(python).exists() and as_ordinary_user([python, "-c", check]).returncode == 0:
            return python
    # Not the host's fault but the place's: a checkout below a private home is nobody else's to read.
    pytest.skip("no Python here can be read by an ordinary user together with this checkout")


def as_ordinary_user(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run it as nobody if we are root, else as ourselves."""
    others: dict[str, Any] = (
        {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    return subprocess.run(
        command,
        **others,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
