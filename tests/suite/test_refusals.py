"""What stands in the way is said in two sentences: what it is, and how to mend it."""

import json
import os
import re
import socket
from pathlib import Path

import pytest

from interlock_suite.command import Identity
from interlock_suite.errors import SuiteError
from interlock_suite.launcher import NOBODY_ID
from interlock_suite.ports import ports_from
from tests.suite.conftest import StartSuite
from tests.suite.harness import SuiteProcess


def test_a_busy_port_that_was_asked_for_is_named_with_its_owner(start_suite: StartSuite) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = _refusal(start_suite("a", f"port_base={port - 3}"))
    assert f"Port {port} is in use by process {os.getpid()}" in said
    assert "--port-base" in said


def test_a_remembered_port_that_is_busy_is_refused_because_clients_know_it(
    start_suite: StartSuite,
) -> None:
    suite = start_suite().ready()
    port = int(suite.context()["addresses"]["gateway"].rpartition(":")[2])
    assert suite.stop() == 0
    with socket.create_server(("127.0.0.1", port)):
        assert f"Port {port} is in use" in _refusal(start_suite())


def test_a_first_start_takes_the_next_block_when_ports_are_busy_and_keeps_it(
    start_suite: StartSuite,
) -> None:
    first = start_suite("one").ready()
    base = json.loads((first.folder.root / "suite.json").read_text())["port_base"]
    second = start_suite("two").ready()
    chosen = second.context()["addresses"]
    assert int(chosen["audit"].rpartition(":")[2]) > base + 4
    assert first.stop() == 0
    assert second.stop() == 0
    again = start_suite("two").ready()
    assert again.context()["addresses"] == chosen
    assert again.stop() == 0


def test_a_first_start_looks_for_free_ports_from_where_the_environment_says(start_suite: StartSuite) -> None:
    ours = int(os.environ["INTERLOCK_PORTS_FROM"]) + 40
    suite = start_suite(INTERLOCK_PORTS_FROM=str(ours)).ready()
    assert int(suite.context()["addresses"]["audit"].rpartition(":")[2]) in range(ours, ours + 50)
    assert suite.stop() == 0


@pytest.mark.parametrize("said", ["no", "-1", "80", "70000"])
def test_a_place_to_look_for_ports_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(SuiteError, match=f"INTERLOCK_PORTS_FROM is '{said}', and not a port"):
        ports_from({"INTERLOCK_PORTS_FROM": said})


def test_a_folder_in_use_names_the_process_that_uses_it(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    assert f"Another suite (process {suite.pid}) runs on the data folder" in _refusal(start_suite())
    assert suite.stop() == 0


def test_a_folder_of_another_format_is_left_alone(start_suite: StartSuite, scratch: Path) -> None:
    _write_memory(scratch, format=99)
    assert "has format 99; this version of Interlock reads format 1" in _refusal(start_suite())
    assert not (scratch / "a" / "postgres").exists()


def test_a_memory_that_cannot_be_read_is_not_overwritten(start_suite: StartSuite, scratch: Path) -> None:
    _write_memory(scratch, format=1)
    (scratch / "a" / "suite.json").write_text("{")
    assert "suite.json cannot be read" in _refusal(start_suite())
    assert (scratch / "a" / "suite.json").read_text() == "{"


def test_data_without_the_memory_of_whose_it_is_is_not_given_a_new_name(
    start_suite: StartSuite, scratch: Path
) -> None:
    (scratch / "a" / "postgres").mkdir(parents=True)
    assert "suite.json is missing, though there is data" in _refusal(start_suite())
    assert not (scratch / "a" / "suite.json").exists()


def test_a_folder_of_another_postgres_is_left_alone(start_suite: StartSuite, scratch: Path) -> None:
    _write_memory(scratch, format=1)
    data = scratch / "a" / "postgres"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    said = _refusal(start_suite())
    assert "The data folder was made by PostgreSQL 9, and the versions at hand are:" in said
    assert "Install PostgreSQL 9" in said
    assert list(data.iterdir()) == [data / "PG_VERSION"]


def test_too_little_disk_space_is_refused_before_anything_is_made(
    start_suite: StartSuite, scratch: Path
) -> None:
    assert re.search(r"Only \d+ MiB are free", _refusal(start_suite("a", f"minimum_free_bytes={2**60}")))
    assert list((scratch / "a").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder that belongs to another user")
def test_a_folder_of_another_user_is_refused(start_suite: StartSuite, scratch: Path) -> None:
    folder = scratch / "a"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY_ID, NOBODY_ID)
    said = _refusal(start_suite(identity=Identity.MAPPED))
    assert "no permission" in said
    assert str(folder) in said


def test_a_file_in_the_place_of_the_folder_is_refused(start_suite: StartSuite, scratch: Path) -> None:
    (scratch / "a").write_text("here first")
    assert "is not a folder" in _refusal(start_suite())


def test_a_server_that_forgets_commits_is_refused(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    assert suite.stop() == 0
    with (suite.folder.postgres / "postgresql.conf").open("a") as file:
        file.write("fsync = off\n")
    said = _refusal(start_suite())
    assert "fsync = off" in said
    assert "Set fsync = on" in said


def test_an_external_postgres_that_does_not_answer_is_named(start_suite: StartSuite, scratch: Path) -> None:
    said = _refusal(start_suite("a", f"database_url=postgresql://x:secret@/x?host={scratch}"))
    assert "PostgreSQL cannot be used" in said
    assert "secret" not in said


def test_a_child_that_does_not_start_is_shown_with_the_end_of_its_log(start_suite: StartSuite) -> None:
    suite = start_suite("a", INTERLOCK_GATEWAY_BROKEN="the reason in its log")
    said = _refusal(suite)
    assert "gateway did not start" in said
    assert "the reason in its log" in said


def _refusal(suite: SuiteProcess) -> str:
    """What is said by a suite that does not start."""
    assert suite.wait() == 2
    assert "Traceback" not in suite.err
    assert suite.err.startswith("Error: ")
    assert "is ready" not in suite.out
    return suite.err


def _write_memory(scratch: Path, **changes: object) -> None:
    folder = scratch / "a"
    folder.mkdir(mode=0o700)
    memory = {"suite_id": "a-suite", "format": 1, "port_base": None, **changes}
    (folder / "suite.json").write_text(json.dumps(memory))
