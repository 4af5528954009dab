"""A whole suite in processes of its own, as the tests that break it or use it see it from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import psycopg
import redis

from interlock.client import Client
from interlock.common.channel import channel
from interlock_suite.command import Identity, launched
from interlock_suite.control import ask
from interlock_suite.folder import DataFolder
from svc_kit.identity import LocalIssuer, Role
from tests.suite.harness import REPOSITORY, alive, descendants

SERVICES = ("orchestrator", "registry", "gateway", "audit")
PROCESSES = ("postgres", "valkey", *SERVICES, "worker")
_READY_SECONDS = 90.0
_TOKEN_SECONDS = 3600.0


class RunningSuite:
    """`python -m interlock_suite up` on a folder that outlives single runs."""

    def __init__(self, data_dir: Path, *options: str, **settings: str) -> None:
        """`options` are those of `up`; `settings` go into its environment, where each service looks."""
        self._options = options
        self._settings = settings
        self.folder = DataFolder(data_dir)
        self.pins = data_dir.with_name("pins.json")
        self._said = data_dir.with_name("said")
        self._process: subprocess.Popen[bytes] | None = None

    # Its life

    def start(self) -> None:
        """Start it and return when it is ready."""
        folder = ("--data-dir", str(self.folder.root))
        argv = (sys.executable, "-m", "interlock_suite", "up", *folder, *self._options)
        with self._said.open("ab") as said:
            process = subprocess.Popen(
                # With the tests ends what they started.
                launched(argv, identity=Identity.SELF, death_signal=signal.SIGTERM),
                cwd=REPOSITORY,
                env={**os.environ, **self._settings},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._process = process
        deadline = time.monotonic() + _READY_SECONDS
        while self._pid_in_context() != process.pid:
            assert process.poll() is None, self._said.read_text()
            assert time.monotonic() < deadline, f"not ready: {self._said.read_text()}"
            time.sleep(0.05)

    def kill(self) -> set[int]:
        """End the supervisor as a crash would; the process ids of all that it had started."""
        assert self._process is not None
        below = descendants(self._process.pid)
        self._process.kill()
        self._process.wait()
        return below

    def stop(self) -> None:
        """Have it end in order; no process may need to be killed for that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(60) == 0, self._said.read_text()
        assert "did not stop" not in self._said.read_text()

    def close(self) -> None:
        """After the tests: whatever its state, it goes."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    # Its processes

    def ask(self, **request: Any) -> dict[str, Any]:
        """What the control socket answers."""
        return ask(self.folder.control, request, timeout=90)

    def processes(self) -> dict[str, dict[str, Any]]:
        """The status of each process by its name."""
        return {row["name"]: row for row in self.ask(op="status")["processes"]}

    def pid(self, name: str) -> int:
        """Process id of a process that runs."""
        pid = self.processes()[name]["pid"]
        assert isinstance(pid, int), f"{name} does not run"
        return pid

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process of the suite; its id."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Kill a process and keep it from being started again inside the block."""
        assert self._process is not None
        pid = self.pid(name)
        self._process.send_signal(signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def hanging(self, name: str) -> Iterator[None]:
        """Have a process neither work nor end inside the block."""
        pid = self.send(name, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def is_ready(self) -> bool:
        """Whether every process is ready, and no process of before is dying still."""
        found = self.processes()
        return all(row["state"] == "ready" and alive(row["pid"]) for row in found.values())

    def restarted(self, name: str, before: int) -> bool:
        """Whether the process that had the id `before` has a successor that is ready."""
        row = self.processes()[name]
        return bool(row["state"] == "ready" and row["pid"] != before)

    def unexpected(self) -> list[str]:
        """What the services logged as errors of their own: no fault from outside excuses one."""
        found = []
        stores = ("postgres", "valkey", "supervisor", "migrations")
        for log in sorted(self.folder.logs.glob("*.log")):
            for line in () if log.stem in stores else log.read_text().splitlines():
                try:
                    said = json.loads(line)
                except ValueError:
                    # Cut off by a kill, or not of the service's own making.
                    continue
                # Complaints about streams that grpc drops, or that the end of a server cuts, answer nobody.
                ours = said.get("logger", "").partition(".")[0] not in ("asyncio", "grpc")
                if said["level"] == "error" and ours and said.get("reason") != "OUTCOME_UNKNOWN":
                    found.append(f"{log.stem}: {line}")
        return found

    # Its doors

    @property
    def context(self) -> dict[str, Any]:
        """What the suite publishes for clients."""
        value: dict[str, Any] = json.loads(self.folder.context.read_text())
        return value

    @property
    def issuer(self) -> LocalIssuer:
        """The suite's own issuer, for tokens that its control socket would not give."""
        return LocalIssuer(self.folder.keys / "issuer.pem", self.folder.recall().suite_id)

    def token(
        self, *roles: str, tenant: str = "default", subject: str = "tester", ttl: float = _TOKEN_SECONDS
    ) -> str:
        """A token of these roles; a WORKER of the tenant's pool `default`."""
        held = frozenset(Role(role) for role in roles)
        pools = [(tenant, "default")] if Role.WORKER in held else []
        return self.issuer.mint(subject, tenant, held, ttl, pools)

    def client(self, *roles: str, tenant: str = "default", subject: str = "tester") -> Client:
        """A client that shows a token of these roles."""
        token = self.token(*roles, tenant=tenant, subject=subject)
        return Client(self.context["addresses"], lambda: token)

    def door(self, service: str, *, internal: bool = False) -> str:
        """The address of one of a service's doors."""
        return f"unix:{self.folder.socket(service)}" if internal else str(self.context["addresses"][service])

    def channel(self, service: str, token: str | None = None, *, internal: bool = False) -> grpc.aio.Channel:
        """A connection over which nothing is tried again."""
        return channel(self.door(service, internal=internal), (lambda: token) if token is not None else None)

    # Its data, as an administrator of the machine reaches it

    def database(self, service: str) -> "psycopg.Connection[tuple[Any, ...]]":
        """A superuser's connection to the database of a service; every statement commits by itself."""
        password = (self.folder.keys / "postgres/superuser.password").read_text().strip()
        host = quote(str(self.folder.run / "pg"), safe="")
        url = f"postgresql://postgres:{password}@/interlock_{service}?host={host}"
        return psycopg.connect(url, autocommit=True)

    @property
    def valkey(self) -> "redis.Redis":
        """A client of the suite's Valkey."""
        password = (self.folder.keys / "valkey/password").read_text().strip()
        return redis.Redis.from_url(f"unix://:{password}@{self.folder.socket('valkey')}?db=0")

    def _pid_in_context(self) -> int | None:
        try:
            pid: int = json.loads(self.folder.context.read_text())["pid"]
        except FileNotFoundError:
            # None yet, or the next start is just clearing away a killed one's.
            return None
        return pid


def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Poll until it holds; for what happens outside of any loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
