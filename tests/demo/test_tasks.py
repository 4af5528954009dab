"""Tasks by the command line: submit, watch, get, list, cancel, retry."""

import json
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.suite_running import Suite

HELLO = '{"text": "hello"}'


def submitted(suite: Suite, agent: str = "bench-echo", text: str = HELLO, *options: str) -> dict[str, Any]:
    task: dict[str, Any] = suite.json("submit", agent, text, *options)
    return task


def running(suite: Suite, seconds: float = 20) -> str:
    """A task that an attempt works on."""
    task_id: str = submitted(suite, "bench-slow", json.dumps({"seconds": seconds}))["task_id"]
    deadline = time.monotonic() + 30
    while suite.json("get", task_id)["state"] != "TASK_STATE_RUNNING":
        assert time.monotonic() < deadline
    return task_id


def test_a_task_is_submitted_and_its_result_comes_back_as_json(suite: Suite) -> None:
    task = submitted(suite, "bench-echo", HELLO, "--type", "greeting", "--label", "team=a=b", "--wait")
    assert task["state"] == "TASK_STATE_COMPLETED"
    assert task["input"] == {"text": "hello"}
    assert task["result"] == {"echo": "hello"}
    assert task["labels"] == {"team": "a=b"}
    assert (task["task_type"], task["attempt"], task["retry_count"]) == ("greeting", 1, 0)
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["COMPLETED"]


def test_every_field_is_there_also_while_it_is_empty(suite: Suite) -> None:
    task = submitted(suite)
    assert task["result"] is None
    assert task["attempts"] == []
    assert task["attempt"] == 0
    assert task["retried_from"] == ""


def test_the_input_comes_from_a_file_or_from_standard_input(suite: Suite, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('{"text": "aus der Datei: ä"}', encoding="utf-8")
    by_file = suite.json("submit", "bench-echo", f"@{file}", "--wait")
    by_pipe = suite.json("submit", "bench-echo", "-", "--wait", stdin='{"text": "piped"}')
    assert by_file["result"] == {"echo": "aus der Datei: ä"}
    assert by_pipe["result"] == {"echo": "piped"}


def test_an_input_file_that_is_not_there_is_named(suite: Suite) -> None:
    assert "nowhere.json" in suite.error("submit", "bench-echo", "@nowhere.json")["message"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "JSON"),
        ("[1]", "object"),
        ('{"text": NaN}', "NaN"),
        ('{"text": "a", "text": "b"}', "text"),
        ('{"text": "\\u0000"}', "NUL"),
        ('{"text": ' + "[" * 80 + "]" * 80 + "}", "64"),
        ('{"text": 5}', "text"),
        ("{}", "text"),
    ],
    ids=["cut", "list", "nan", "twice", "nul", "deep", "type", "missing"],
)
def test_a_bad_input_is_refused_with_what_is_wrong(suite: Suite, text: str, what: str) -> None:
    error = suite.error("submit", "bench-echo", "-", stdin=text)
    assert error["reason"] == "INVALID_FIELDS"
    assert error["request_id"]
    assert [violation["field"].partition(".")[0] for violation in error["violations"]] == ["input_json"]
    assert what in error["violations"][0]["field"] + error["violations"][0]["message"]


def test_an_unknown_agent_is_named_with_where_to_look(suite: Suite) -> None:
    error = suite.error("submit", "nobody", HELLO)
    assert error["reason"] == "AGENT_NOT_FOUND"
    assert "interlock agents list" in error["fix"]


def test_the_same_request_id_answers_the_first_task(suite: Suite) -> None:
    request_id = str(uuid.uuid4())
    first = submitted(suite, "bench-echo", HELLO, "--request-id", request_id)
    again = submitted(suite, "bench-echo", HELLO, "--request-id", request_id)
    assert first["task_id"] == again["task_id"]
    error = suite.error("submit", "bench-echo", '{"text": "other"}', "--request-id", request_id)
    assert error["reason"] == "REQUEST_ID_REUSED"


def test_a_label_that_is_no_pair_is_a_usage_error(suite: Suite) -> None:
    done = suite.cli("submit", "bench-echo", HELLO, "--label", "x", "-o", "json")
    assert done.returncode == 2
    assert json.loads(done.stderr)["error"]["reason"] == "USAGE"


def test_a_watch_prints_every_event_and_tells_by_its_exit_code_how_it_ended(suite: Suite) -> None:
    good = submitted(suite)["task_id"]
    done = suite.cli("watch", good, "--after", "1", "-o", "json")
    updates = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [int(update["revision"]) for update in updates] == list(range(2, 2 + len(updates)))
    assert updates[-1]["state"] == "TASK_STATE_COMPLETED"
    assert {update["step"]["status"] for update in updates if update.get("step")} == {
        "STEP_STATUS_STARTED",
        "STEP_STATUS_COMPLETED",
    }
    bad = submitted(suite, "bench-raise", HELLO)["task_id"]
    assert suite.cli("watch", bad).returncode == 1


def test_a_watch_of_an_ended_task_from_its_last_revision_on_still_tells_how_it_ended(suite: Suite) -> None:
    task = submitted(suite, "bench-echo", HELLO, "--wait")
    done = suite.cli("watch", task["task_id"], "--after", task["revision"])
    assert (done.returncode, done.stdout) == (0, "")


def test_a_watch_for_people_names_steps_tools_and_reasons(suite: Suite) -> None:
    task_id = submitted(suite, "bench-raise", HELLO)["task_id"]
    lines = suite.cli("watch", task_id, "--after", "1").stdout.splitlines()
    assert any("step STARTED" in line and "raise → bench_raise" in line for line in lines)
    assert any("step FAILED" in line and "ValueError: hello" in line for line in lines)
    assert "FAILED" in lines[-1] and "ValueError" in lines[-1]


def test_a_cursor_of_another_history_is_refused(suite: Suite) -> None:
    task = submitted(suite, "bench-echo", HELLO, "--wait")
    assert suite.error("watch", task["task_id"], "--after", "999")["reason"] == "CURSOR_INVALID"


def test_tasks_are_listed_newest_first_by_agent_and_state_page_by_page(suite: Suite) -> None:
    mark = f"page-{uuid.uuid4()}"
    ids = [submitted(suite, "bench-echo", HELLO, "--type", mark, "--wait")["task_id"] for _ in range(3)]
    chosen = ("--agent", "bench-echo", "--state", "COMPLETED", "--filter", f'task_type = "{mark}"')
    first = suite.json("list", *chosen, "--limit", "2")
    second = suite.json("list", *chosen, "--limit", "2", "--page-token", first["next_page_token"])
    assert [task["task_id"] for task in first["tasks"] + second["tasks"]] == ids[::-1]
    assert second["next_page_token"] == ""
    assert suite.json("list", *chosen[:2], "--state", "FAILED", *chosen[4:])["tasks"] == []
    assert "--page-token" in suite.cli("list", *chosen, "--limit", "2").stdout


def test_a_table_of_tasks_is_whole_in_a_pipe(suite: Suite) -> None:
    task_id = submitted(suite)["task_id"]
    lines = suite.cli("list").stdout.splitlines()
    assert lines[0].split() == ["TASK", "STATE", "AGENT", "ATTEMPT", "SUBMITTED"]
    assert lines[1].startswith(task_id)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--filter", 'colour = "red"'), "FILTER_INVALID"),
        (("--filter", "agent ="), "FILTER_INVALID"),
        (("--state", "NOWHERE"), "FILTER_INVALID"),
        (("--agent", 'x" OR state = "FAILED'), None),
        (("--page-token", "AAAA"), "PAGE_TOKEN_INVALID"),
    ],
)
def test_bad_lists_are_refused(suite: Suite, options: tuple[str, ...], reason: str | None) -> None:
    if reason is None:
        assert suite.json("list", *options)["tasks"] == []
    else:
        assert suite.error("list", *options)["reason"] == reason


def test_an_unknown_task_is_an_error_that_names_the_fix(suite: Suite) -> None:
    for command in ("get", "watch", "cancel", "retry", "trace"):
        error = suite.error(command, str(uuid.uuid4()))
        assert (error["reason"], error["fix"]) == ("TASK_NOT_FOUND", "See the tasks with: interlock list")
    assert suite.error("get", "no-uuid")["violations"][0]["field"] == "task_id"


def test_errors_for_people_say_reason_fix_and_request(suite: Suite) -> None:
    done = suite.cli("get", str(uuid.uuid4()))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: TASK_NOT_FOUND: ")
    assert "\nSee the tasks with: interlock list\n(request " in done.stderr


def test_a_running_task_is_canceled_and_an_ended_one_is_not(suite: Suite) -> None:
    task_id = running(suite)
    assert suite.json("cancel", task_id)["state"] in ("TASK_STATE_CANCELING", "TASK_STATE_CANCELED")
    assert suite.cli("watch", task_id).returncode == 1
    assert suite.json("get", task_id)["state"] == "TASK_STATE_CANCELED"
    assert suite.json("cancel", task_id)["state"] == "TASK_STATE_CANCELED"
    completed = submitted(suite, "bench-echo", HELLO, "--wait")["task_id"]
    assert suite.error("cancel", completed)["reason"] == "TASK_STATE"


def test_a_retry_is_a_new_task_that_names_the_old_one(suite: Suite) -> None:
    old = submitted(suite, "bench-raise", HELLO)["task_id"]
    assert suite.cli("watch", old).returncode == 1
    new = json.loads(suite.cli("retry", old, "--wait", "-o", "json").stdout)
    assert new["task_id"] != old
    assert (new["retried_from"], new["input"]) == (old, {"text": "hello"})
    request_id = str(uuid.uuid4())
    twice = [suite.json("retry", old, "--request-id", request_id)["task_id"] for _ in range(2)]
    assert twice[0] == twice[1]


def test_a_task_that_has_not_ended_is_not_retried(suite: Suite) -> None:
    task_id = running(suite)
    assert suite.error("retry", task_id)["reason"] == "TASK_STATE"
    suite.json("cancel", task_id)


@pytest.mark.parametrize("agent", ["bench-echo", "bench-raise"])
def test_what_a_tool_says_cannot_drive_the_terminal(suite: Suite, agent: str) -> None:
    wicked = "\x1b[2J\x9b31m\u202eevil\nVERIFIED"
    task_id = submitted(suite, agent, json.dumps({"text": wicked}))["task_id"]
    for command in (("watch", task_id), ("get", task_id), ("trace", task_id), ("trace", task_id, "--full")):
        shown = suite.cli(*command).stdout
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
        assert not any(line.startswith("VERIFIED") for line in shown.splitlines())
    line = suite.cli("get", task_id, "-o", "json").stdout
    assert line.count("\n") == 1 and not {"\x1b", "\x9b", "\u202e"} & set(line)
    assert json.loads(line)["input"] == {"text": wicked}
