"""A real PostgreSQL and a real Valkey for the tests of every package.

One of each per test session; every `make_database` call gives a fresh database with its two roles.
"""

import itertools
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from interlock_suite.databases import RolePasswords, ServiceDatabase, provision
from interlock_suite.postgres import EmbeddedPostgres, PostgresPlace
from interlock_suite.valkey import EmbeddedValkey, ValkeyPlace

__all__ = ["PostgresServer", "ServiceDatabase", "ValkeyServer", "postgres_server", "valkey_server"]

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_PASSWORDS = RolePasswords(owner="owner-of-a-test", service="service-of-a-test")


@dataclass
class _Server:
    """One running server that a test may kill and start again."""

    server: EmbeddedPostgres | EmbeddedValkey
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def url(self) -> str:
        """The administrator's URL."""
        return self.server.url

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = self.server.command()
        self._process = command.spawn()
        deadline = time.monotonic() + _START_SECONDS
        while not self.server.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{command.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it in order."""
        self._end(self.server.command().stop_signal)

    def kill(self) -> None:
        """Kill it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in order and start it again on the same data."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass
class PostgresServer(_Server):
    """The test session's PostgreSQL."""

    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)

    def make_database(self, service: str) -> ServiceDatabase:
        """A fresh, empty database with the roles `<service>_owner` and `<service>`."""
        name = f"interlock_{service}_{next(self._numbers)}"
        return provision(self.url, service=service, database=name, passwords=_PASSWORDS)


@dataclass
class ValkeyServer(_Server):
    """The test session's Valkey."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL, reachable by unix socket alone, gone after the session."""

    def build(folder: Path) -> PostgresServer:
        place = PostgresPlace(
            data=folder / "data", socket=folder / "s", password_file=folder / "password", log=folder / "log"
        )
        return PostgresServer(server=EmbeddedPostgres.prepare(place, max_connections=300))

    yield from _running(build)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A real Valkey, reachable by unix socket alone, gone after the session."""

    def build(folder: Path) -> ValkeyServer:
        place = ValkeyPlace(
            data=folder / "data", socket=folder / "s", password_file=folder / "password", log=folder / "log"
        )
        return ValkeyServer(server=EmbeddedValkey.prepare(place))

    yield from _running(build)


_S = TypeVar("_S", PostgresServer, ValkeyServer)


def _running(build: Callable[[Path], _S]) -> Iterator[_S]:
    # Not pytest's own temporary folder: a unix socket's path may hold 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    server = build(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
