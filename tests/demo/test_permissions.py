"""What may be called: allow, why, trace, and the switches of the registry."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.suite_running import Suite

CONDITIONAL = "bench-conditional"


def ended(suite: Suite, agent: str, text: str) -> dict[str, Any]:
    """A task once it has ended, however."""
    done = suite.cli("submit", agent, json.dumps({"text": text}), "--wait", "-o", "json")
    task: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) is (task["state"] == "TASK_STATE_COMPLETED")
    return task


def test_what_nobody_allowed_is_refused_and_why_shows_the_five_verdicts(suite: Suite) -> None:
    task = ended(suite, CONDITIONAL, "anything")
    assert task["error"]["error_class"] == "POLICY_DENIED"
    trace = suite.json("trace", task["task_id"])
    call_id = trace["steps"][0]["call_id"]
    why = suite.json("why", call_id)
    assert [verdict["check"] for verdict in why["verdicts"]] == [
        "role",
        "binding",
        "allow",
        "approval",
        "reach",
    ]
    assert [verdict["passed"] for verdict in why["verdicts"]] == [True, True, False, False, False]
    assert [verdict["skipped"] for verdict in why["verdicts"]] == [False, False, False, True, True]
    assert (why["status"], why["reason"]) == ("TOOL_CALL_STATUS_REFUSED", "POLICY_DENIED")
    lines = suite.cli("why", call_id).stdout.splitlines()
    assert "REFUSED (POLICY_DENIED)" in lines[0]
    assert [line.split()[0] for line in lines[1:6]] == ["✓", "✓", "✗", "·", "·"]


def test_an_allow_holds_under_its_condition_alone(suite: Suite) -> None:
    suite.json("allow", CONDITIONAL, "bench_echo", "--when", 'context.arguments.text == "yes"')
    assert ended(suite, CONDITIONAL, "yes")["result"] == {"echo": "yes"}
    assert ended(suite, CONDITIONAL, "no")["error"]["error_class"] == "POLICY_DENIED"


def test_a_check_says_what_would_become_of_a_call_and_which_tools_an_agent_has(suite: Suite) -> None:
    refused = suite.cli("check", CONDITIONAL, "bench_echo", '{"text": "never"}')
    assert refused.returncode == 1
    assert refused.stdout.startswith("would be refused (POLICY_DENIED)")
    unfit = suite.cli("check", CONDITIONAL, "bench_echo", '{"text": 7}', "-o", "json")
    assert json.loads(unfit.stdout)["violations"][0]["field"] == "/text"
    suite.json("allow", CONDITIONAL, "bench_echo", "--when", 'context.arguments.text == "checked"')
    allowed = suite.cli("check", CONDITIONAL, "bench_echo", '{"text": "checked"}')
    assert (allowed.returncode, allowed.stdout.splitlines()[0]) == (0, "would start")
    listed = suite.cli("check", CONDITIONAL).stdout
    assert "✓ bench_echo" in listed and ", on a condition" in listed


def test_policies_are_tried_in_shadow_changed_explained_and_deleted(suite: Suite, tmp_path: Path) -> None:
    text = tmp_path / "never.cedar"
    who, what = f'Interlock::Agent::"{CONDITIONAL}"', 'Interlock::Tool::"bench_echo"'
    names = f"principal == {who}, action, resource == {what}"
    text.write_text(f'forbid ({names}) when {{ context.arguments.text == "shade" }};\n')
    misspelt = tmp_path / "misspelt.cedar"
    misspelt.write_text(text.read_text().replace("arguments.text", "arguments.txt"))
    error = suite.error("policies", "create", "never", str(misspelt))
    assert error["reason"] == "POLICY_INVALID" and "`text`" in json.dumps(error)

    suite.json("allow", CONDITIONAL, "bench_echo", "--when", 'context.arguments.text == "shade"')
    made = suite.json("policies", "create", "never", str(text), "--shadow", "--until", "2999-01-01T00:00:00Z")
    assert (made["version"], made["mode"]) == (1, "POLICY_MODE_SHADOW")
    assert ended(suite, CONDITIONAL, "shade")["result"] == {"echo": "shade"}
    (call,) = suite.json("policies", "changes", "never")
    assert "`never@1` would refuse it" in suite.cli("policies", "changes", "never").stdout
    explained = suite.cli("why", call["call_id"], "--policies").stdout
    assert "in shadow mode: never, version 1" in explained and "forbid (" in explained

    changed = suite.json("policies", "update", "never", "--mode", "enforce", "--until", "never")
    assert (changed["version"], "expire_time" in changed) == (2, False)
    assert ended(suite, CONDITIONAL, "shade")["error"]["error_class"] == "POLICY_DENIED"
    assert "never" in suite.cli("policies", "list", "--tool", "bench_echo").stdout
    suite.json("policies", "delete", "never", "--etag", changed["etag"])
    assert ended(suite, CONDITIONAL, "shade")["result"] == {"echo": "shade"}
    assert [each["version"] for each in suite.json("policies", "versions", "never")] == [2, 1]
    assert "version 2, enforce" in suite.cli("policies", "get", "never", "--version", "2").stdout


@pytest.mark.parametrize(("says", "state"), [("approve", "COMPLETED"), ("deny", "FAILED")])
def test_a_call_waits_for_a_person_who_sees_what_it_is_and_decides(
    suite: Suite, says: str, state: str
) -> None:
    text = f"ask\x1b[2J {says}"
    suite.json(
        *("allow", CONDITIONAL, "bench_echo", "--approve", "DEVELOPER"),
        *("--when", 'context.arguments.text like "ask*"'),
    )
    task_id = suite.json("submit", CONDITIONAL, json.dumps({"text": text}))["task_id"]

    deadline = time.monotonic() + 60
    while not (found := suite.json("approvals", "list", "--filter", f'task_id = "{task_id}"')):
        assert time.monotonic() < deadline
    approval_id = found[0]["approval_id"]
    assert "arguments_json" not in found[0]
    shown = suite.cli("approvals", "show", approval_id).stdout
    assert "\x1b" not in shown
    assert "ask\\u001b[2J" in shown
    assert suite.json(says, approval_id, "--reason", "said so")["decision_reason"] == "said so"
    done = json.loads(suite.cli("wait", task_id, "-o", "json").stdout)
    assert done["state"] == f"TASK_STATE_{state}"
    decided = "Approved by operator as" if says == "approve" else "operator said no: said so"
    assert any(
        "by   " in line and decided in line for line in suite.cli("trace", task_id).stdout.splitlines()
    )
    error = suite.error("deny" if says == "approve" else "approve", approval_id)
    assert error["reason"] == "APPROVAL_CLOSED"


def test_a_dry_run_checks_and_stores_nothing(suite: Suite) -> None:
    done = suite.cli("allow", CONDITIONAL, "bench_echo", "--id", "never-stored", "--dry-run")
    assert done.returncode == 0 and "Would allow by policy never-stored:\npermit (" in done.stdout
    error = suite.error("call", "gateway", "GetPolicy", '{"policy_id": "never-stored"}')
    assert error["reason"] == "POLICY_NOT_FOUND"


def test_the_same_allow_again_is_no_error_and_another_under_its_id_is(suite: Suite) -> None:
    policy_id = f"p-{uuid.uuid4()}"
    first = suite.cli("allow", "agent-of-nobody", "bench_echo", "--id", policy_id)
    again = suite.cli("allow", "agent-of-nobody", "bench_echo", "--id", policy_id)
    assert first.stdout.startswith("Allowed by") and again.stdout.startswith("Allowed already by")
    error = suite.error("allow", "agent-of-nobody", "bench_slow", "--id", policy_id)
    assert error["reason"] == "NAME_TAKEN" and "--id" in error["fix"]


@pytest.mark.parametrize(
    "when",
    [
        "context.nothing == 3",
        "context.arguments.text ==",
        "true }; permit (principal, action, resource) when { true",
    ],
    ids=["unknown attribute", "cut", "a second policy"],
)
def test_a_condition_that_is_none_is_refused(suite: Suite, when: str) -> None:
    assert suite.error("allow", CONDITIONAL, "bench_echo", "--when", when)["reason"] == "POLICY_INVALID"


def test_a_call_that_nobody_made_is_unknown(suite: Suite) -> None:
    assert suite.error("why", str(uuid.uuid4()))["reason"] == "TOOL_CALL_NOT_FOUND"


def test_a_disabled_tool_is_refused_until_it_is_enabled(suite: Suite) -> None:
    assert suite.json("disable", "tool", "bench_echo")["status"] == "STATUS_DISABLED"
    try:
        assert ended(suite, "bench-echo", "now")["error"]["error_class"] == "NOT_ACTIVE"
    finally:
        assert suite.json("enable", "tool", "bench_echo")["status"] == "STATUS_ACTIVE"
    assert ended(suite, "bench-echo", "now")["state"] == "TASK_STATE_COMPLETED"


def test_a_disabled_agent_takes_no_tasks(suite: Suite) -> None:
    suite.json("disable", "agent", "bench-raise")
    try:
        assert suite.error("submit", "bench-raise", '{"text": "x"}')["reason"] == "NOT_ACTIVE"
    finally:
        suite.json("enable", "agent", "bench-raise")


def test_a_limit_is_set_listed_and_removed(suite: Suite) -> None:
    assert suite.json("limits", "set", "bench_raise", "--max-per-minute", "1")["max_per_minute"] == 1
    try:
        assert [each["tool"] for each in suite.json("limits", "list")] == ["bench_raise"]
    finally:
        suite.json("limits", "set", "bench_raise")
    assert suite.json("limits", "list") == []


def test_a_connection_to_a_database_is_made_shown_and_switched_off(suite: Suite, tmp_path: Path) -> None:
    statements = tmp_path / "statements.json"
    statements.write_text(
        '{"statements": [{"name": "all", "sql": "SELECT id FROM orders", "timeout": "2s"}]}'
    )
    create = ("connections", "create", "orders", "--kind", "database", "--statements", str(statements))
    made = suite.json(*create, "--url", "postgresql://db.example.com/orders")
    try:
        assert [each["name"] for each in made["statements"]] == ["all"]
        assert suite.json("disable", "connection", "orders")["disabled"] is True
        shown = suite.cli("connections", "get", "orders").stdout
        assert "statement all (reads): SELECT id FROM orders" in shown
        assert "disabled" in shown
        assert suite.json("enable", "connection", "orders")["disabled"] is False
    finally:
        suite.json("connections", "delete", "orders")


def test_a_trace_is_a_tree_with_isolation_and_audit_position_of_each_call(suite: Suite) -> None:
    task = ended(suite, "bench-echo", "branch")
    lines = suite.cli("trace", task["task_id"]).stdout.splitlines()
    assert lines[0] == f"bench-echo 1.0.0  COMPLETED  task {task['task_id']}"
    assert lines[1].startswith("├─ echo → bench_echo  COMPLETED  ")
    assert any(f"isolation {level}" in lines[1] for level in ("STANDARD", "FULL"))
    assert "audit #" in lines[1]
    assert lines[2].split(maxsplit=2)[1:] == ["in", '{"text":"branch"}']
    assert lines[3].split(maxsplit=2)[1:] == ["out", '{"echo":"branch"}']
    assert lines[4] == '└─ result {"echo":"branch"}'
    shown = suite.json("trace", task["task_id"])
    assert shown["steps"][0]["output"] == {"echo": "branch"}
    assert shown["tool_calls"][0]["status"] == "TOOL_CALL_STATUS_COMPLETED"


def test_long_inputs_are_cut_in_a_trace_unless_it_is_full(suite: Suite) -> None:
    task = ended(suite, "bench-echo", "long " * 100)
    cut = suite.cli("trace", task["task_id"]).stdout
    full = suite.cli("trace", task["task_id"], "--full").stdout
    assert "…" in cut and max(map(len, cut.splitlines())) < 110
    assert "…" not in full and json.dumps("long " * 100) in full
