"""What is killed comes back; what is left over goes."""

import os
import signal

import psycopg
import redis

from interlock_suite.passwords import password
from tests.suite.conftest import StartSuite
from tests.suite.harness import SuiteProcess, alive, descendants, eventually


def test_kill_9_of_the_supervisor_takes_everything_down_and_the_next_start_works(
    start_suite: StartSuite,
) -> None:
    suite = start_suite().ready()
    pids = descendants(suite.pid) | {suite.told("audit")["grandchild"]}
    with _busy_backend(suite) as backend:
        assert alive(backend)
        suite.signal(signal.SIGKILL)
        eventually(lambda: not any(alive(pid) for pid in pids | {backend}), seconds=5.0)
    assert start_suite().ready().stop() == 0


def test_a_start_right_behind_the_kill_waits_for_what_is_still_going_down(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    pids = descendants(suite.pid)
    suite.signal(signal.SIGKILL)
    successor = start_suite().ready()
    assert not [pid for pid in pids if alive(pid)]
    assert successor.stop() == 0


def test_a_start_mends_what_a_killed_supervisor_and_its_killed_guard_left(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    grandchild = suite.told("gateway")["grandchild"]
    os.kill(_guard(suite), signal.SIGKILL)
    suite.signal(signal.SIGKILL)
    suite.wait()
    assert alive(grandchild)
    successor = start_suite().ready()
    assert not alive(grandchild)
    assert successor.stop() == 0


def test_a_killed_guard_is_replaced(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    first = _guard(suite)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: any(pid != first for pid in _guards(suite)))
    grandchild = suite.told("gateway")["grandchild"]
    suite.signal(signal.SIGKILL)
    eventually(lambda: not alive(grandchild), seconds=5.0)


def test_a_killed_child_comes_back_and_its_orphans_go(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    orphan = suite.told("gateway")["grandchild"]
    _kill_and_await_return(suite, "gateway")
    assert not alive(orphan)
    assert "gateway ended by itself" in suite.folder.log("supervisor").read_text()
    assert suite.stop() == 0


def test_a_killed_postgres_comes_back_with_its_data_though_a_backend_is_busy(
    start_suite: StartSuite,
) -> None:
    suite = start_suite().ready()
    with psycopg.connect(_admin_url(suite)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    with _busy_backend(suite) as backend:
        _kill_and_await_return(suite, "postgres")
        assert not alive(backend)
    with psycopg.connect(_admin_url(suite)) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
    assert suite.stop() == 0


def test_a_killed_valkey_comes_back(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    _kill_and_await_return(suite, "valkey")
    url = suite.told("worker")["env"]["INTERLOCK_WORKER_REDIS_URL"]
    with redis.Redis.from_url(url) as client:
        assert client.ping()
    assert suite.stop() == 0


def test_a_valkey_whose_files_are_damaged_begins_anew(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    assert suite.stop() == 0
    for file in (suite.folder.valkey / "appendonlydir").iterdir():
        file.write_bytes(b"damaged")
    successor = start_suite().ready()
    assert [path.name for path in suite.folder.root.glob("valkey.damaged*")]
    assert successor.stop() == 0


def test_another_process_with_the_number_of_the_old_postgres_does_not_stop_the_start(
    start_suite: StartSuite,
) -> None:
    suite = start_suite().ready()
    pid_file = suite.folder.postgres / "postmaster.pid"
    old = pid_file.read_text().splitlines()
    assert suite.stop() == 0
    pid_file.write_text("\n".join([str(os.getpid()), *old[1:]]) + "\n")
    assert start_suite().ready().stop() == 0


def test_a_restart_by_the_control_socket_answers_when_the_successor_is_ready(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    before = suite.process_ids()
    answer = suite.ask(op="restart", process="orchestrator")
    after = suite.process_ids()
    assert answer == {"process": "orchestrator", "pid": after["orchestrator"]}
    assert after["orchestrator"] != before["orchestrator"]
    assert {**after, "orchestrator": 0} == {**before, "orchestrator": 0}
    assert suite.stop() == 0


def _kill_and_await_return(suite: SuiteProcess, name: str) -> None:
    before = suite.process_ids()[name]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        rows = {row["name"]: row for row in suite.ask(op="status")["processes"]}
        return rows[name]["pid"] not in (None, before) and rows[name]["state"] == "ready"

    eventually(is_back, seconds=15.0)


def _admin_url(suite: SuiteProcess) -> str:
    secret = password(suite.folder.keys / "postgres" / "superuser.password")
    return f"postgresql://postgres:{secret}@/postgres?host={suite.folder.run}/pg"


def _guards(suite: SuiteProcess) -> set[int]:
    return {pid for pid in descendants(suite.pid) if "guard.py" in _command_line(pid)}


def _guard(suite: SuiteProcess) -> int:
    (pid,) = _guards(suite)
    return pid


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


class _busy_backend:  # noqa: N801 - used as a function
    """A PostgreSQL backend in the middle of a computation, which does not notice its server's death."""

    def __init__(self, suite: SuiteProcess) -> None:
        self._connection = psycopg.connect(_admin_url(suite), autocommit=True)

    def __enter__(self) -> int:
        pid = self._connection.info.backend_pid
        self._connection.pgconn.send_query(
            b"DO $$ DECLARE n bigint := 0; BEGIN LOOP n := n + 1; EXIT WHEN n < 0; END LOOP; END $$"
        )
        return pid

    def __exit__(self, *_: object) -> None:
        self._connection.close()
