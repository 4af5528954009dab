"""The same attacks as an ordinary user: nothing of the sandbox may rest on being root."""

import asyncio
import json

from tests.sandbox.attacks import ATTACKS
from tests.sandbox.attacks.leaks import LEAKS
from tests.sandbox.hosts import without_host
from tests.sandbox.ordinary_user import as_ordinary_user, readable_interpreter


async def test_every_attack_is_held_for_an_ordinary_user_too() -> None:
    python = readable_interpreter()
    done = await asyncio.to_thread(as_ordinary_user, [python, "-m", "tests.sandbox.unprivileged_driver"])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    if "unavailable" in report:
        without_host(f"this host has no sandbox for an ordinary user: {report['unavailable']}")
    assert report["uid"] != 0
    assert report["level"] in ("STANDARD", "FULL")
    assert report["restarts"] == 0
    assert len(report["problems"]) == len(ATTACKS) + len(LEAKS)
    assert {name: found for name, found in report["problems"].items() if found} == {}
