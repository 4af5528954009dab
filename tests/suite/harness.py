"""Starts suites as processes of their own and looks at them from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interlock_suite.command import Identity, launched
from interlock_suite.control import ask
from interlock_suite.folder import DataFolder

REPOSITORY = Path(__file__).parents[2]
_READY_SECONDS = 40.0


class SuiteProcess:
    """One suite in a process of its own."""

    def __init__(
        self, data_dir: Path, *settings: str, identity: Identity = Identity.SELF, **environ: str
    ) -> None:
        self.folder = DataFolder(data_dir)
        argv = (sys.executable, "-m", "tests.suite.runner", str(data_dir), *settings)
        self._process = subprocess.Popen(
            launched(argv, identity=identity, death_signal=signal.SIGTERM),
            cwd=REPOSITORY,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C in the terminal of the tests must not reach it.
            start_new_session=True,
        )
        self.out = ""
        self.err = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> "SuiteProcess":
        """Wait until it says so."""

        def is_ready() -> bool:
            if self._process.poll() is not None:
                self.wait()
                raise AssertionError(f"the suite ended with {self._process.returncode}: {self.out}{self.err}")
            # A killed predecessor's context may still lie there, and go at any moment.
            try:
                return bool(self.context()["pid"] == self.pid)
            except FileNotFoundError:
                return False

        eventually(is_ready, seconds=_READY_SECONDS)
        return self

    def ask(self, **request: Any) -> dict[str, Any]:
        return ask(self.folder.control, request)

    def process_ids(self) -> dict[str, int]:
        return {row["name"]: row["pid"] for row in self.ask(op="status")["processes"]}

    def told(self, child: str) -> dict[str, Any]:
        """What a small child was started with."""
        value: dict[str, Any] = json.loads((self.folder.run / f"{child}.told.json").read_text())
        return value

    def context(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.folder.context.read_text())
        return value

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 40.0) -> int:
        """The exit code; what it said is in `out` and `err`."""
        out, err = self._process.communicate(timeout=seconds)
        self.out, self.err = self.out + out, self.err + err
        return self._process.returncode

    def stop(self) -> int:
        """Ctrl-C, and wait."""
        self.signal(signal.SIGINT)
        return self.wait()

    def end(self) -> None:
        """After a test: whatever its state, it goes."""
        self._process.kill()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        self._process.wait()


def eventually(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Poll until it holds; fails when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead but not yet reaped does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def descendants(root: int) -> set[int]:
    """All processes below `root`, now."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(folder.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found
