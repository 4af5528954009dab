import asyncio
import json

from tests.sandbox.hosts import without_host
from tests.sandbox.ordinary_user import as_ordinary_user, readable_interpreter


async def test_a_host_without_namespaces_is_refused_with_its_remedy_and_not_served_less_in_silence() -> None:
    python = readable_interpreter()
    done = await asyncio.to_thread(as_ordinary_user, [python, "-m", "tests.sandbox.poor_host"])
    if "Operation not permitted" in done.stderr or "No space left" in done.stderr:
        without_host("this host has no user namespaces to pretend with")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["level"] == "PARTIAL"
    assert set(report["missing"]) == {"namespaces", "network", "root", "cgroups"}
    assert "user.max_user_namespaces" in report["missing"]["namespaces"][1]
    assert "it needs namespaces" in report["missing"]["root"][0]
    assert "STANDARD is required" in report["refusal"]
    assert "sysctl -w user.max_user_namespaces" in report["refusal"]
    # Asked for in so many words, code runs with what is left, and says so.
    assert report["ran_at"] == "PARTIAL"
    assert report["error"] == "None"
    assert all(errno in (1, 13) for errno in report["result"])
