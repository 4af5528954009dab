"""What operators do by the command line: queues, workers, connections, running calls."""

import json
import time
from typing import Any

from tests.demo.test_tasks import HELLO, running, submitted
from tests.suite_running import Suite

UNKNOWN = "01900000-0000-7000-8000-000000000000"


def fields(error: dict[str, Any]) -> list[str]:
    return [violation["field"] for violation in error["violations"]]


def test_a_queue_is_made_limited_held_emptied_and_deleted(suite: Suite) -> None:
    made = suite.json("queues", "create", "nightly", "--max-running", "2", "--rate", "100/60", "--burst", "5")
    assert (made["name"], made["pool"], made["max_running"], made["paused"]) == (
        "nightly",
        "default",
        2,
        False,
    )
    assert (made["rate_limit"]["count"], made["rate_limit"]["period"]) == (100, "60s")
    assert suite.json("queues", "pause", "nightly")["paused"] is True
    task_id = submitted(suite, "bench-echo", HELLO, "--queue", "nightly")["task_id"]
    shown = suite.cli("queues", "get", "nightly").stdout
    assert "PAUSED" in shown and "2 running" in shown and "waiting  1\n" in shown
    row = next(line for line in suite.cli("queues", "list").stdout.splitlines() if line.startswith("nightly"))
    assert "PAUSED" in row
    assert suite.json("explain", task_id)["wait_reason"] == "WAIT_REASON_QUEUE_PAUSED"
    assert suite.error("queues", "delete", "nightly")["reason"] == "QUEUE_NOT_EMPTY"
    unasked = suite.cli("queues", "purge", "nightly")
    assert unasked.returncode == 2 and "give --yes" in unasked.stderr
    assert suite.json("queues", "purge", "nightly", "--yes") == {"purged": 1}
    assert suite.json("get", task_id)["state"] == "TASK_STATE_CANCELED"
    changed = suite.json("queues", "update", "nightly", "--rate", "none", "--max-waiting", "9")
    assert (changed.get("rate_limit"), changed["max_waiting"], changed["max_running"]) == (None, 9, 2)
    error = suite.error("queues", "update", "nightly", "--max-running", "3", "--etag", made["etag"])
    assert error["reason"] == "ETAG_MISMATCH"
    assert suite.json("queues", "resume", "nightly")["paused"] is False
    assert suite.json("queues", "delete", "nightly") == {"deleted": "nightly"}
    assert suite.error("queues", "get", "nightly")["reason"] == "QUEUE_NOT_FOUND"


def test_everything_that_is_wrong_with_a_queue_is_named(suite: Suite) -> None:
    error = suite.error("queues", "create", "No Name", "--max-running", "-1", "--pool", "!")
    assert error["reason"] == "INVALID_FIELDS"
    assert sorted(fields(error)) == ["queue.max_running", "queue.name", "queue.pool"]
    done = suite.cli("queues", "create", "fast", "--rate", "often", "-o", "json")
    assert (done.returncode, json.loads(done.stderr)["error"]["reason"]) == (2, "USAGE")
    assert "--rate" in done.stderr and "100/60" in done.stderr


def test_a_drained_worker_takes_nothing_until_it_is_resumed(suite: Suite) -> None:
    sessions = [each["session_id"] for each in suite.json("workers")]
    assert sessions
    for session in sessions:
        assert suite.json("workers", "drain", session)["state"] in (
            "WORKER_STATE_DRAINING",
            "WORKER_STATE_DRAINED",
        )
    try:
        task_id = submitted(suite)["task_id"]
        blockers = suite.json("explain", task_id)["blockers"]
        assert "BLOCKER_KIND_WORKERS_DRAINING" in [each["kind"] for each in blockers]
        assert suite.error("wait", task_id, "--timeout", "0.3")["reason"] == "TIMEOUT"
    finally:
        for session in sessions:
            assert suite.json("workers", "resume", session)["state"] == "WORKER_STATE_ACTIVE"
    assert suite.json("wait", task_id)["state"] == "TASK_STATE_COMPLETED"
    assert sessions[0] in suite.cli("workers").stdout
    assert suite.error("workers", "drain", UNKNOWN)["reason"] == "WORKER_NOT_FOUND"
    assert fields(suite.error("workers", "drain", "x")) == ["session_id"]


def test_a_connection_is_made_changed_given_a_credential_that_nothing_shows_and_deleted(suite: Suite) -> None:
    url = "https://models.example.com/v1"
    made = suite.json("connections", "create", "vendor", "--url", url, "--model", "small=0.15,0.6")
    (model,) = made["models"]
    assert (model["name"], int(model["input_price_micros"]), int(model["output_price_micros"])) == (
        "small",
        150_000,
        600_000,
    )
    assert (made["agents"], made["has_credential"]) == ([], False)
    kept = suite.json("connections", "set-credential", "vendor", stdin="very-secret-key\n")
    assert kept["has_credential"] is True
    bound = suite.cli("connections", "update", "vendor", "--agent", "bench-echo")
    assert "agents: bench-echo" in bound.stdout and "credential: stored" in bound.stdout
    listed = suite.cli("connections", "list").stdout
    shown = suite.cli("connections", "get", "vendor", "-o", "json").stdout
    assert "vendor" in listed and json.loads(shown)["agents"] == ["bench-echo"]
    assert "very-secret-key" not in listed + shown + bound.stdout + json.dumps(kept)
    error = suite.error("connections", "delete", "vendor", "--etag", made["etag"])
    assert error["reason"] == "ETAG_MISMATCH"
    moved = suite.json(
        "connections", "update", "vendor", "--url", "https://other.example.com/v1", "--no-agents"
    )
    assert (moved["has_credential"], moved["agents"]) == (False, [])
    assert suite.json("connections", "delete", "vendor") == {"deleted": "vendor"}
    assert suite.error("connections", "get", "vendor")["reason"] == "CONNECTION_NOT_FOUND"


def test_everything_that_is_wrong_with_a_connection_is_named(suite: Suite) -> None:
    error = suite.error("connections", "create", "vendor", "--url", "ftp://example.com", "--agent", "!")
    assert sorted(fields(error)) == ["connection.agents[0]", "connection.base_url", "connection.models"]
    wrong = (
        ("create", "vendor", "--url", "https://example.com", "--model", "small=cheap"),
        ("set-credential", "vendor"),
    )
    for arguments in wrong:
        done = suite.cli("connections", *arguments, "-o", "json")
        assert (done.returncode, json.loads(done.stderr)["error"]["reason"]) == (2, "USAGE")


def test_one_call_is_ended_and_its_task_goes_on_to_a_failure(suite: Suite) -> None:
    task_id = running(suite)
    (call,) = _calls(suite, task_id)
    ended = suite.json("cancel-call", call["call_id"])
    assert (ended["call_id"], ended["status"]) == (call["call_id"], "TOOL_CALL_STATUS_FAILED")
    failed = suite.cli("wait", task_id, "-o", "json")
    assert (failed.returncode, json.loads(failed.stdout)["error"]["error_class"]) == (1, "TOOL_CANCELED")
    # One that has ended is shown as it is.
    assert "FAILED (TOOL_CANCELED)" in suite.cli("cancel-call", call["call_id"]).stdout
    assert suite.error("cancel-call", UNKNOWN)["reason"] == "TOOL_CALL_NOT_FOUND"
    assert fields(suite.error("cancel-call", "x")) == ["call_id"]


def _calls(suite: Suite, task_id: str) -> list[dict[str, Any]]:
    """The tool calls of a task, once there are some."""
    request = json.dumps({"filter": f'task_id = "{task_id}"'})
    deadline = time.monotonic() + 30
    while True:
        found: list[dict[str, Any]] = suite.json("call", "gateway", "ListToolCalls", request)["tool_calls"]
        if found:
            return found
        assert time.monotonic() < deadline
