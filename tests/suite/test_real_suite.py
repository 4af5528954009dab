"""The real services and worker under the supervisor."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock_suite.control import ask
from interlock_suite.folder import DataFolder
from tests.suite.harness import REPOSITORY, alive, descendants, eventually


class RealSuite:
    """`python -m interlock_suite up` on a folder that outlives single runs."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = DataFolder(data_dir)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start and wait until it is ready."""
        argv = [sys.executable, "-m", "interlock_suite", "up", "--data-dir", str(self.folder.root)]
        process = subprocess.Popen(
            argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._process = process
        eventually(lambda: process.poll() is not None or self._pid_in_context() == process.pid, seconds=60)
        assert process.poll() is None, process.communicate()[0]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def end(self, how: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(how)
        code = self._process.wait(60)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return code

    def close(self) -> None:
        if self._process is not None:
            self.end(signal.SIGKILL)

    def _pid_in_context(self) -> int | None:
        if not self.folder.context.exists():
            return None
        pid: int = json.loads(self.folder.context.read_text())["pid"]
        return pid


@pytest.fixture(scope="module")
def real_suite() -> Iterator[RealSuite]:
    with tempfile.TemporaryDirectory(prefix="il-", ignore_cleanup_errors=True) as folder:
        suite = RealSuite(Path(folder) / "a")
        yield suite
        suite.close()


def test_all_services_and_the_worker_get_ready_and_stop_in_order(real_suite: RealSuite) -> None:
    real_suite.start()
    status = ask(real_suite.folder.control, {"op": "status"})
    states = {row["name"]: (row["state"], row["restarts"]) for row in status["processes"]}
    names = ("postgres", "valkey", "audit", "registry", "gateway", "orchestrator", "worker")
    assert states == dict.fromkeys(names, ("ready", 0))
    pids = descendants(real_suite.pid)
    assert real_suite.end(signal.SIGINT) == 0
    assert not [pid for pid in pids if alive(pid)]
    assert _errors(real_suite.folder) == []


def test_nothing_not_even_a_sandbox_outlives_a_killed_supervisor_and_the_next_start_works(
    real_suite: RealSuite,
) -> None:
    real_suite.start()
    pids = descendants(real_suite.pid)
    real_suite.end(signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in pids), seconds=5.0)
    real_suite.start()
    assert real_suite.end(signal.SIGTERM) == 0


def _errors(folder: DataFolder) -> list[str]:
    """What the services logged as errors during the last run."""
    return [
        line
        for service in ("audit", "registry", "gateway", "orchestrator", "worker")
        for line in folder.log(service).read_text().splitlines()
        if '"level": "error"' in line or "Traceback" in line
    ]
