"""Following and repeating tasks by the command line: wait, events, count, redrive, retry from a step."""

import uuid
from typing import Any

import pytest

from tests.demo.test_tasks import HELLO, running, submitted
from tests.suite_running import Suite

UNKNOWN = "01900000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def echoed(suite: Suite) -> dict[str, Any]:
    """A completed task."""
    return submitted(suite, "bench-echo", HELLO, "--wait")


@pytest.mark.parametrize("command", ["wait", "events", "redrive", "retry"])
def test_a_task_that_there_is_not_or_an_id_that_is_none_is_named(suite: Suite, command: str) -> None:
    if command == "redrive":
        assert suite.error("redrive", "--request-id", "7")["violations"][0]["field"] == "request_id"
        return
    error = suite.error(command, UNKNOWN)
    assert (error["reason"], error["fix"]) == ("TASK_NOT_FOUND", "See the tasks with: interlock list")
    assert [each["field"] for each in suite.error(command, "7")["violations"]] == ["task_id"]


def test_a_wait_shows_the_task_with_its_result_and_tells_by_its_exit_code_how_it_ended(
    suite: Suite, echoed: dict[str, Any]
) -> None:
    done = suite.json("wait", echoed["task_id"])
    assert (done["state"], done["result"]) == ("TASK_STATE_COMPLETED", {"echo": "hello"})
    bad = submitted(suite, "bench-raise", HELLO)["task_id"]
    failed = suite.cli("wait", bad)
    assert failed.returncode == 1
    assert "FAILED" in failed.stdout and "ValueError: hello" in failed.stdout


def test_a_wait_that_is_too_short_says_that_the_task_goes_on(suite: Suite) -> None:
    task_id = running(suite)
    error = suite.error("wait", task_id, "--timeout", "0.1")
    assert error["reason"] == "TIMEOUT"
    assert "0.1 s" in error["message"] and f"interlock get {task_id}" in error["fix"]
    suite.json("cancel", task_id)
    assert suite.error("wait", task_id, "--timeout", "-1")["reason"] == "USAGE"


def test_events_are_listed_page_by_page_and_for_people_a_line_each(
    suite: Suite, echoed: dict[str, Any]
) -> None:
    task_id, last = echoed["task_id"], int(echoed["revision"])
    first = suite.json("events", task_id, "--limit", "2")
    rest = suite.json("events", task_id, "--page-token", first["next_page_token"])
    revisions = [int(event["revision"]) for event in first["events"] + rest["events"]]
    assert (revisions, rest["next_page_token"]) == (list(range(1, last + 1)), "")
    shown = suite.cli("events", task_id, "--limit", "3").stdout.splitlines()
    assert ["SUBMITTED" in shown[0], "RUNNING" in shown[1], "echo → bench_echo" in shown[2]] == [True] * 3
    assert shown[-1].startswith("More: --page-token ")
    error = suite.error("events", task_id, "--page-token", "x")
    assert (error["reason"], error["violations"][0]["field"]) == ("PAGE_TOKEN_INVALID", "page_token")


def test_tasks_are_counted_by_filter_up_to_a_limit(suite: Suite) -> None:
    mark = f"count-{uuid.uuid4()}"
    for _ in range(3):
        submitted(suite, "bench-echo", HELLO, "--type", mark)
    chosen = ("count", "--agent", "bench-echo", "--queue", "default", "--filter", f'task_type = "{mark}"')
    assert suite.json(*chosen) == {"count": 3, "more": False}
    assert suite.json(*chosen, "--limit", "2") == {"count": 2, "more": True}
    assert suite.cli(*chosen, "--limit", "2").stdout == "2 and more\n"
    assert suite.json(*chosen, "--state", "FAILED")["count"] == 0
    assert suite.error("count", "--filter", "colour = red")["reason"] == "FILTER_INVALID"
    assert suite.error("count", "--limit", "0")["reason"] == "USAGE"


def test_dead_letters_are_repeated_once_by_filter(suite: Suite) -> None:
    mark = f"redrive-{uuid.uuid4()}"
    bad = ("bench-slow", '{"seconds": 9}', "--attempt-timeout", "0.1", "--max-failures", "1", "--type", mark)
    dead = {submitted(suite, *bad)["task_id"] for _ in range(2)}
    for task_id in dead:
        assert suite.cli("wait", task_id).returncode == 1
    chosen = ("redrive", "--filter", f'task_type = "{mark}"')
    assert suite.cli(*chosen, "--dry-run").stdout.startswith("2 dead letters to be repeated\n")
    request_id = str(uuid.uuid4())
    first = suite.json(*chosen, "--request-id", request_id)
    assert (first["count"], first["more"], len(first["task_ids"])) == (2, False, 2)
    assert suite.json(*chosen, "--request-id", request_id) == first
    assert {suite.json("get", each)["retried_from"] for each in first["task_ids"]} == dead
    assert suite.error("redrive", "--filter", "colour = red")["reason"] == "FILTER_INVALID"
    assert suite.error("redrive", "--limit", "501")["reason"] == "USAGE"


def test_a_retry_from_a_step_takes_over_what_was_finished_before_it(suite: Suite) -> None:
    old = submitted(suite, "bench-slow", '{"seconds": 0.01}', "--wait")["task_id"]
    new = suite.json("retry", old, "--from-step", "second", "--wait")
    assert (new["state"], new["retried_from"], new["from_step"]) == ("TASK_STATE_COMPLETED", old, "second")
    events = suite.json("events", new["task_id"])["events"]
    assert {event["step"]["step_key"] for event in events if event.get("step")} == {"second"}
    error = suite.error("retry", old, "--from-step", "third")
    assert "third" in error["message"] and error["request_id"]
    assert suite.error("retry", old, "--from-step", "no key")["violations"][0]["field"] == "from_step"
