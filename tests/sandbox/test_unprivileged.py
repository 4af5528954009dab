"""The same attacks as an ordinary user: nothing of the sandbox may rest on being root."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
NOBODY = 65534
INTERPRETERS = ("/usr/bin/python3", "/usr/local/bin/python3", sys.executable)


def readable_interpreter() -> str:
    """A Python of at least 3.11 that an ordinary user can run with this checkout; skips without one."""
    check = "import sys, interlock_sandbox; raise SystemExit(sys.version_info < (3, 11))"
    for python in INTERPRETERS:
        if Path(python).exists() and as_nobody([python, "-c", check]).returncode == 0:
            return python
    pytest.skip("no Python here can be read by an ordinary user together with this checkout")


def as_nobody(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become somebody else; this run is unprivileged itself"
)
async def test_every_attack_is_held_for_an_ordinary_user_too() -> None:
    python = readable_interpreter()
    done = await asyncio.to_thread(as_nobody, [python, "-m", "tests.sandbox.unprivileged_driver"])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    if "unavailable" in report:
        pytest.skip(f"this host has no sandbox for an ordinary user: {report['unavailable']}")
    assert report["uid"] == NOBODY
    assert report["level"] in ("STANDARD", "FULL")
    assert report["restarts"] == 0
    assert len(report["problems"]) == len(ATTACKS)
    assert {name: found for name, found in report["problems"].items() if found} == {}
