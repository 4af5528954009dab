"""`call`, `token`, `doctor`, and what the environment says."""

import json

import pytest

from tests.suite_running import Suite


def test_the_public_methods_of_each_service_are_listed(suite: Suite) -> None:
    assert "SubmitTask" in suite.json("call", "orchestrator")
    assert {"PublishToolVersion", "CreateAgent"} <= set(suite.json("call", "registry"))
    assert {"GetToolCall", "CreatePolicy"} <= set(suite.cli("call", "gateway").stdout.split())
    assert "Append" not in suite.json("call", "audit")


def test_any_public_method_is_called_with_json(suite: Suite) -> None:
    answer = suite.json("call", "registry", "GetAgent", '{"name": "bench-echo"}')
    assert answer["agent"]["latest_version"] == "1.0.0"
    pretty = suite.cli("call", "registry", "GetAgent", '{"name": "bench-echo"}')
    assert json.loads(pretty.stdout) == answer and pretty.stdout.count("\n") > 3


def test_streamed_answers_are_one_object_a_line(suite: Suite) -> None:
    task = suite.json("submit", "bench-echo", '{"text": "x"}', "--wait")
    request = json.dumps({"task_id": task["task_id"], "after_revision": 1})
    done = suite.cli("call", "orchestrator", "WatchTask", request, "-o", "json")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(each["event"]["revision"]) for each in answers] == list(range(2, int(task["revision"]) + 1))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("nowhere", "Get"), "orchestrator, registry, gateway, audit"),
        (("audit", "Append"), "GetAuditTrail"),
        (("orchestrator", "GetTask", '{"id": "x"}'), "task_id"),
        (("orchestrator", "GetTask", "{"), "task_id"),
    ],
    ids=["service", "internal method", "field", "json"],
)
def test_a_wrong_call_is_a_usage_error_that_says_what_there_is(
    suite: Suite, arguments: tuple[str, ...], what: str
) -> None:
    done = suite.cli("call", *arguments, "-o", "json")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["reason"]) == (2, "USAGE")
    assert what in error["fix"]


def test_a_call_acts_with_just_the_role_it_is_given(suite: Suite) -> None:
    error = suite.error("call", "registry", "CreateAgent", '{"name": "x"}', "--role", "ADMIN")
    assert error["reason"] == "ROLE_REQUIRED"


def test_a_token_from_the_environment_replaces_the_suites_own(suite: Suite) -> None:
    viewer = suite.cli("token", "--role", "VIEWER").stdout.strip()
    assert suite.json("list", INTERLOCK_TOKEN=viewer)["tasks"] is not None
    error = suite.error("submit", "bench-echo", '{"text": "x"}', INTERLOCK_TOKEN=viewer)
    assert error["reason"] == "ROLE_REQUIRED"
    assert "INTERLOCK_TOKEN" in error["fix"]
    assert suite.error("list", INTERLOCK_TOKEN="not.a.token")["reason"] == "TOKEN_INVALID"


def test_a_token_names_its_roles_and_its_end(suite: Suite) -> None:
    minted = suite.json("token", "--role", "AUDITOR", "--role", "VIEWER", "--ttl", "60")
    assert minted["token"].count(".") == 2
    assert minted["expires_at"] > 0
    done = suite.cli("token", "--role", "SERVICE")
    assert done.returncode == 2


def test_addresses_from_the_environment_replace_the_suites_own(suite: Suite) -> None:
    assert suite.error("list", INTERLOCK_ORCHESTRATOR_ADDRESS="127.0.0.1:1")["reason"] == "UNAVAILABLE", (
        "nobody listens on port 1"
    )
    error = suite.error("list", INTERLOCK_ORCHESTRATOR_ADDRESS="203.0.113.5:443")
    assert "plain text" in error["message"] and "INTERLOCK_CA_FILE" in error["fix"]
    assert (
        "INTERLOCK_AUDIT_ADDRESS"
        in suite.error("call", "audit", "GetCheckpoint", INTERLOCK_AUDIT_ADDRESS="nonsense")["fix"]
    )


def test_the_doctor_finds_a_running_suite_whole(suite: Suite) -> None:
    findings = {finding["name"]: finding for finding in suite.json("doctor")}
    assert all(finding["ok"] for finding in findings.values())
    assert {"python", "postgres", "valkey", "sandbox", "disk", "suite", "worker"} <= set(findings)
    assert "healthy at 127.0.0.1" in findings["orchestrator"]["found"]


def test_the_doctor_says_which_service_does_not_answer(suite: Suite) -> None:
    with suite.hanging("registry"):
        done = suite.cli("doctor", "-o", "json")
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert "does not answer" in findings["registry"]["found"]
    assert "registry.log" in findings["registry"]["fix"]
