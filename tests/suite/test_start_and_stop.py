"""From nothing to ready and back."""

import os
import signal
from pathlib import Path

import psycopg
import pytest

from interlock_suite.command import Identity
from tests.suite.conftest import StartSuite
from tests.suite.harness import alive, descendants, eventually

STOP_ORDER = ["worker", "orchestrator", "gateway", "audit"]


def test_a_first_start_tells_the_addresses_and_how_to_go_on(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    address = suite.context()["addresses"]["gateway"]
    assert suite.stop() == 0
    assert "Interlock is ready" in suite.out
    assert address in suite.out
    assert f"interlock --data-dir {suite.folder.root} token --role DEVELOPER" in suite.out
    assert f"interlock --data-dir {suite.folder.root} demo" in suite.out
    assert suite.err == ""


def test_a_warm_start_keeps_identity_ports_and_data(start_suite: StartSuite) -> None:
    first = start_suite().ready()
    context = first.context()
    assert first.stop() == 0
    assert not first.folder.context.exists()
    second = start_suite().ready()
    assert {**second.context(), "pid": context["pid"]} == context
    assert second.stop() == 0


def test_ctrl_c_stops_all_in_the_reverse_order_of_the_start(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    pids = descendants(suite.pid)
    assert len(pids) > 8
    assert suite.stop() == 0
    assert (suite.folder.root / "stops.txt").read_text().split() == STOP_ORDER
    assert not [pid for pid in pids if alive(pid)]
    postgres = suite.folder.log("postgres").read_text()
    assert "received fast shutdown request" in postgres
    assert "database system is shut down" in postgres


def test_the_control_socket_stops_it_too(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    assert suite.ask(op="stop") == {"stopping": True}
    assert suite.wait() == 0
    assert (suite.folder.root / "stops.txt").read_text().split() == STOP_ORDER


def test_a_second_ctrl_c_does_not_wait_for_a_child_that_will_not_stop(start_suite: StartSuite) -> None:
    suite = start_suite("a", INTERLOCK_GATEWAY_STUBBORN="1").ready()
    pids = descendants(suite.pid)
    suite.signal(signal.SIGINT)
    stops = suite.folder.root / "stops.txt"
    eventually(lambda: stops.exists() and "gateway" in stops.read_text())
    suite.signal(signal.SIGINT)
    assert suite.wait() == 0
    # Patience with it would have ended so.
    assert "did not stop in" not in suite.err
    assert not [pid for pid in pids if alive(pid)]


def test_ctrl_c_during_the_start_leaves_nothing(start_suite: StartSuite) -> None:
    suite = start_suite()
    eventually(suite.folder.control.exists)
    pids = descendants(suite.pid)
    suite.signal(signal.SIGINT)
    assert suite.wait() == 0
    assert not [pid for pid in pids if alive(pid)]
    assert start_suite().ready().stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="otherwise every test of this file shows it")
def test_it_runs_as_an_ordinary_user(start_suite: StartSuite) -> None:
    suite = start_suite("a", identity=Identity.MAPPED).ready()
    assert suite.stop() == 0


def test_two_suites_run_side_by_side_on_folders_and_ports_of_their_own(start_suite: StartSuite) -> None:
    one = start_suite("one").ready()
    two = start_suite("two").ready()
    assert not set(one.context()["addresses"].values()) & set(two.context()["addresses"].values())
    assert one.context()["suite_id"] != two.context()["suite_id"]
    assert one.stop() == 0
    assert two.ask(op="status")["ready"] is True
    assert two.stop() == 0


def test_a_data_folder_with_a_long_path_puts_its_sockets_elsewhere(start_suite: StartSuite) -> None:
    suite = start_suite("/".join(["long" * 10] * 3)).ready()
    assert suite.folder.run.parent != suite.folder.root
    assert suite.folder.run.stat().st_mode & 0o777 == 0o700
    assert suite.stop() == 0


def test_external_servers_replace_the_embedded_ones(
    start_suite: StartSuite, external_servers: tuple[str, str]
) -> None:
    database_url, redis_url = external_servers
    suite = start_suite("a", f"database_url={database_url}", f"redis_url={redis_url}").ready()
    assert set(suite.process_ids()) == {"audit", "gateway", "orchestrator", "worker"}
    assert suite.told("worker")["env"]["INTERLOCK_WORKER_REDIS_URL"] == redis_url
    assert not suite.folder.postgres.exists()
    assert suite.stop() == 0
    with psycopg.connect(database_url):
        pass


def test_secrets_are_readable_by_their_owner_alone(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    folder = suite.folder
    assert folder.root.stat().st_mode & 0o077 == 0
    secrets = [*folder.keys.rglob("*.pem"), *folder.keys.rglob("*password*"), *folder.run.glob("*.token")]
    assert len(secrets) > 5
    assert [path for path in _files([*secrets, folder.context]) if path.stat().st_mode & 0o077] == []
    assert suite.stop() == 0


def _files(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]
