"""The demo itself, on a suite that runs and on one that it starts."""

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from interlock_suite.control import ask
from interlock_suite.errors import SuiteError
from interlock_suite.folder import DataFolder
from tests.command_line import argv, environment, error_of, interlock
from tests.suite.harness import alive, descendants, eventually
from tests.suite_running import Suite

_SCREENFUL = 60


def outcome(*arguments: str) -> dict[str, Any]:
    done = interlock(*arguments, "-o", "json")
    assert done.stdout.count("\n") == 1, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) is (not found["broken"])
    return found


def test_the_demo_shows_on_a_screenful_that_everything_holds_and_does_so_twice(suite: Suite) -> None:
    for round_number in (1, 2):
        done = suite.cli("demo")
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) <= _SCREENFUL
        assert "\x1b" not in done.stdout
        assert ("an earlier demo left is taken back" in done.stdout) is (round_number == 2)
        for said in (
            "The suite runs already",
            "csv_report   REFUSED",
            "FAILED  POLICY_DENIED",
            "✗ allow     No policy allows",
            "csv_report   COMPLETED",
            "moons.csv: 31 rows, 6 columns; radius_km by planet",
            "Titan",
            "└─ result",
            "entries of the completed task",
            "All 7 claims of this demo held",
        ):
            assert said in done.stdout, said
        assert lines[-1].startswith("   $ grpcurl -plaintext") and suite.door("orchestrator") in lines[-1]
    assert suite.json("list", "--agent", "csv-analyst")["tasks"], "the suite was left running"


def test_the_demo_works_on_a_file_of_ones_own(suite: Suite, tmp_path: Path) -> None:
    table = tmp_path / "harvest.csv"
    table.write_text("field;crop;tons\nnorth;rye;1.5\nsouth;rye;2.5\neast;oats;4\nwest;oats;\n")
    found = outcome("--data-dir", str(suite.data_dir), "demo", str(table))
    refused, completed = found["tasks"]
    assert (refused["state"], refused["error"]["error_class"]) == ("TASK_STATE_FAILED", "POLICY_DENIED")
    assert completed["retried_from"] == refused["task_id"]
    report = completed["result"]
    assert report["headline"] == "harvest.csv: 4 rows, 3 columns; tons by crop"
    assert [line.split() for line in report["lines"]] == [
        ["oats", "2", "rows", "mean", "4.0", "largest", "4.0", "east"],
        ["rye", "2", "rows", "mean", "2.0", "largest", "2.5", "south"],
    ]


def test_the_demo_fails_when_the_refusal_that_it_claims_does_not_happen(suite: Suite) -> None:
    suite.json("allow", "csv-analyst", "csv_report", "--id", "allowed-by-somebody-else")
    try:
        done = suite.cli("demo")
    finally:
        suite.json(
            "call", "gateway", "DeletePolicy", '{"policy_id": "allowed-by-somebody-else"}', "--role", "ADMIN"
        )
    assert done.returncode == 1
    assert "Another policy of this tenant allows csv_report" in done.stdout
    assert "Not everything held:" in done.stdout
    assert "✗ csv_report, which nobody had allowed, was refused" in done.stdout


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"x" * 300_000, "200"),
        (b"", "no table"),
        (b"a,b\n\xff\xfe\n", "UTF-8"),
        (b'"' * 150_000, "too large"),
    ],
    ids=["large", "empty", "bytes", "quotes"],
)
def test_a_file_that_the_demo_cannot_use_is_refused_with_the_reason(
    suite: Suite, tmp_path: Path, content: bytes, what: str
) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    done = interlock("--data-dir", str(suite.data_dir), "demo", str(table), "-o", "json")
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 2 and done.stdout == ""
    assert what in error["message"] + error["fix"] and error["fix"]


def test_a_table_without_rows_ends_the_demo_with_what_the_tool_said(suite: Suite, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n")
    found = outcome("--data-dir", str(suite.data_dir), "demo", str(table))
    assert len(found["broken"]) == 1
    assert "ValueError: the table has no rows below its header" in found["broken"][0]


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A data folder of a suite that the demo starts."""
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    yield folder / "a"
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_demo_starts_a_suite_where_none_runs_and_stops_it_in_the_end(own_folder: Path) -> None:
    done = interlock("--data-dir", str(own_folder), "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1. The suite started in " in done.stdout
    assert len(done.stdout.splitlines()) <= _SCREENFUL
    assert f"export INTERLOCK_DATA_DIR={own_folder}\n" in done.stdout
    folder = DataFolder(own_folder)
    assert not folder.context.exists()
    with pytest.raises(SuiteError):
        ask(folder.control, {"op": "status"})
    # The lock is free: nothing of the suite runs any more.
    folder.open().release()


@pytest.mark.slow
def test_the_demo_passes_on_why_a_suite_does_not_start(own_folder: Path, suite: Suite) -> None:
    taken = suite.door("orchestrator").rpartition(":")[2]
    done = interlock("--data-dir", str(own_folder), "demo", "--port-base", str(int(taken) - 1))
    assert done.returncode == 2
    assert "The suite did not start" in done.stderr and "--port-base" in done.stderr
    up = interlock("--data-dir", str(own_folder), "up", "--port-base", str(int(taken) - 1), "-o", "json")
    assert "--port-base" in error_of(up)["fix"]


@pytest.mark.slow
def test_up_tells_programs_in_json_when_it_is_ready_and_when_it_stops(own_folder: Path) -> None:
    process = subprocess.Popen(
        argv("--data-dir", str(own_folder), "up", "-o", "json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert ready["ready"] and set(ready["addresses"]) == {"orchestrator", "registry", "gateway", "audit"}
    assert [json.loads(line) for line in out.splitlines()] == [{"stopping": True}]


@pytest.mark.slow
def test_a_demo_that_is_cut_short_leaves_no_suite_behind_and_the_next_one_starts(own_folder: Path) -> None:
    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        process = subprocess.Popen(
            argv("--data-dir", str(own_folder), "demo"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        while "The suite started" not in (line := process.stdout.readline()):
            assert line, process.communicate()[1]
        # It is quick: halted, until everybody below it is known.
        process.send_signal(signal.SIGSTOP)
        started = descendants(process.pid)
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in said) == (code, False)
        assert len(started) > 5
        eventually(partial(_gone, started), seconds=60)


def _gone(pids: set[int]) -> bool:
    return not any(map(alive, pids))
