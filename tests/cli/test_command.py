"""The command without a suite: help, errors, JSON, exit codes, completion."""

import json
import subprocess
from pathlib import Path

import click
import pytest

from interlock import __version__
from interlock.cli.main import COMMANDS
from interlock.cli.main import interlock as root
from tests.command_line import argv, document, environment, error_of, interlock

# On a quiet machine it takes 110 ms, and 150 are promised; a busy one must not fail the test.
NEED_A_SUITE = (
    ("token",),
    ("submit", "a", "{}"),
    ("watch", "x"),
    ("get", "x"),
    ("list",),
    ("wait", "x"),
    ("events", "x"),
    ("count",),
    ("cancel", "x"),
    ("pause", "x"),
    ("resume", "x"),
    ("retry", "x"),
    ("answer", "x", "true"),
    ("redrive",),
    ("explain", "x"),
    ("queues", "list"),
    ("queues", "purge", "x", "--yes"),
    ("workers",),
    ("blobs", "get", "x"),
    ("trace", "x"),
    ("agents", "list"),
    ("agents", "get", "a"),
    ("agents", "find", "a"),
    ("tools", "list"),
    ("disable", "tool", "t"),
    ("allow", "a", "t"),
    ("connections", "list"),
    ("limits", "list"),
    ("limits", "set", "t", "--max-running", "2"),
    ("disable", "connection", "c"),
    ("cancel-call", "x"),
    ("why", "x"),
    ("audit", "verify", "x"),
    ("call", "orchestrator", "ListTasks"),
)


@pytest.fixture
def nowhere(tmp_path: Path) -> tuple[str, str]:
    """The option that names a folder where no suite runs."""
    return "--data-dir", str(tmp_path / "nowhere")


def test_help_lists_every_command_with_a_whole_sentence() -> None:
    done = interlock("--help")
    listed = done.stdout.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str) -> None:
    done = interlock(command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: interlock {command}")


def test_every_command_of_a_group_is_listed_with_a_whole_sentence_and_explains_its_options() -> None:
    for name in COMMANDS:
        context = click.Context(root, info_name="interlock")
        group = root.get_command(context, name)
        if not isinstance(group, click.Group):
            continue
        assert group.commands, name
        for each in group.commands.values():
            help_text = each.get_help(click.Context(each, info_name=each.name, parent=context))
            assert each.get_short_help_str(100).endswith("."), f"{name} {each.name}"
            assert f"Usage: interlock {each.name}" in help_text
            unsaid = [o.name for o in each.params if isinstance(o, click.Option) and not o.help]
            assert not unsaid, f"{name} {each.name}: {unsaid}"


def test_help_imports_nothing_that_is_slow() -> None:
    done = interlock("--help", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not {"grpc", "rich", "asyncio", "google.protobuf", "cryptography"} & imported


def test_the_version_is_told_as_text_and_as_json() -> None:
    assert interlock("--version").stdout == f"interlock {__version__}\n"
    assert interlock("version").stdout.startswith(f"interlock {__version__} (Python 3.")
    assert document(interlock("version", "-o", "json"))["interlock"] == __version__


@pytest.mark.parametrize("arguments", NEED_A_SUITE, ids=" ".join)
def test_without_a_suite_the_error_says_how_to_start_one(
    nowhere: tuple[str, str], arguments: tuple[str, ...]
) -> None:
    done = interlock(*nowhere, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: No suite runs in {nowhere[1]}.\nStart one with: interlock --data-dir {nowhere[1]} up\n"
    )


def test_an_error_is_one_json_object_where_json_is_asked_for(nowhere: tuple[str, str]) -> None:
    for spelled in (("-o", "json"), ("--output", "json"), ("--output=json",), ("-ojson",)):
        error = error_of(interlock(*nowhere, "list", *spelled))
        assert set(error) == {"message", "reason", "violations", "fix", "request_id"}
        assert error["fix"].startswith("Start one with: interlock")


def test_a_context_that_a_killed_suite_left_is_not_believed(tmp_path: Path) -> None:
    gone = tmp_path / "control.sock"
    (tmp_path / "context.json").write_text(json.dumps({"control": str(gone), "addresses": {}}))
    done = interlock("--data-dir", str(tmp_path), "token")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: The suite in {tmp_path} does not answer.\nStart one with:")


@pytest.mark.parametrize(
    "arguments",
    [("nothing",), ("get",), ("list", "--limit", "0"), ("token", "--role", "KING"), ("list", "-o", "xml")],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = interlock(*arguments)
    assert done.returncode == 2
    assert "Usage: interlock" in done.stderr and "--help" in done.stderr


def test_wrong_usage_is_json_too_where_json_is_asked_for() -> None:
    error = error_of(interlock("get", "-o", "json"))
    assert error["reason"] == "USAGE"
    assert "TASK_ID" in error["message"] and error["fix"] == "See: interlock get --help"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(shell: str) -> None:
    assert "_INTERLOCK_COMPLETE" in interlock("completion", shell).stdout


def test_commands_are_completed() -> None:
    done = interlock(_INTERLOCK_COMPLETE="bash_complete", COMP_WORDS="interlock au", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,audit"]


def test_a_reader_that_has_seen_enough_causes_no_traceback() -> None:
    process = subprocess.Popen(
        argv("completion", "bash"), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read()
    assert (process.wait(30), said) == (1, b"")


def test_the_doctor_says_what_it_finds_where_no_suite_runs(nowhere: tuple[str, str]) -> None:
    findings = {each["name"]: each for each in json.loads(interlock(*nowhere, "doctor", "-o", "json").stdout)}
    assert list(findings) == ["system", "python", "postgres", "valkey", "sandbox", "disk", "data", "ports"]
    assert "will be laid out" in findings["data"]["found"]
    assert not Path(nowhere[1]).exists(), "to look is not to make"


def test_the_command_runs_nothing_from_the_folder_it_is_called_in(
    nowhere: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nt.py").write_text("raise SystemExit('ran')")
    (tmp_path / "interlock_suite").mkdir()
    (tmp_path / "interlock_suite" / "__main__.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(tmp_path)
    done = interlock(*nowhere, "demo", "--port-base", "x")
    assert "ran" not in done.stderr
    done = interlock(*nowhere, "up", "--port-base", "0")
    assert "ran" not in done.stderr and "--port-base 0 is not usable" in done.stderr
