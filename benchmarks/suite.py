"""A suite of its own for a measurement, started and stopped like any other."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg

from interlock.cli.connection import client
from interlock.cli.session import Suite
from interlock.client.client import Client
from interlock_suite.folder import DataFolder

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How many tasks have ended at all, and well."""

    total: int
    completed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How many of some tasks have begun a step, ended, completed, and ended more than once."""

    begun: int
    ended: int
    completed: int
    twice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What PostgreSQL has written so far for all services."""

    commits: int
    wal_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A suite that is ready."""

    data_dir: Path

    def client(self, *roles: str) -> Client:
        """A client with a token of these roles."""
        return client(str(self.data_dir), *roles)

    @property
    def suite(self) -> Suite:
        """The suite's context and control socket."""
        return Suite(self.data_dir)

    @property
    def admin_url(self) -> str:
        """The superuser's URL of the embedded PostgreSQL."""
        password = (self.data_dir / "keys/postgres/superuser.password").read_text().strip()
        run = Path(str(self.suite.context["control"])).parent
        return f"postgresql://postgres:{password}@/postgres?host={quote(str(run / 'pg'), safe='')}"

    def door(self, service: str) -> str:
        """The address of a service's internal door."""
        return f"unix:{DataFolder(self.data_dir).socket(service)}"

    def token_file(self, process: str) -> Path:
        """The file of one process's own token."""
        return DataFolder(self.data_dir).token(process)

    async def ended_tasks(self) -> Ended:
        """Counted by the orchestrator's database."""
        total, completed = await self._count(
            "SELECT count(*), count(*) FILTER (WHERE state = 'COMPLETED') FROM task"
            " WHERE state IN ('COMPLETED', 'FAILED', 'CANCELED')"
        )
        return Ended(total=total, completed=completed)

    async def ends(self, task_ids: list[str]) -> Ends:
        """Counted by the events of these tasks."""
        begun, ended, completed, twice = await self._count(
            "SELECT count(*) FILTER (WHERE began > 0), count(*) FILTER (WHERE over > 0),"
            " count(*) FILTER (WHERE well > 0), count(*) FILTER (WHERE over > 1) FROM (SELECT"
            " count(*) FILTER (WHERE type = 'STEP_STARTED') AS began,"
            " count(*) FILTER (WHERE state = 'COMPLETED') AS well,"
            " count(*) FILTER (WHERE state IN ('COMPLETED', 'FAILED', 'CANCELED')) AS over"
            " FROM task_event WHERE task_id = ANY(%s::uuid[]) GROUP BY task_id) AS each",
            task_ids,
        )
        return Ends(begun=begun, ended=ended, completed=completed, twice=twice)

    async def written(self) -> Written:
        """Over all databases of the suite, the log of changes included."""
        commits, wal, stored = await self._count(
            "SELECT sum(xact_commit)::bigint, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint,"
            " sum(pg_database_size(datid))::bigint FROM pg_stat_database WHERE datname LIKE 'interlock%%'",
        )
        return Written(commits=commits, wal_bytes=wal, stored_bytes=stored)

    def kill(self, process: str) -> None:
        """End one process of the suite as a crash would."""
        os.kill(self._pid(process), signal.SIGKILL)

    @contextlib.contextmanager
    def hanging(self, process: str) -> Iterator[None]:
        """Have one process of the suite neither work nor end inside the block."""
        pid = self._pid(process)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time used so far by each process of the suite with its children."""
        status: dict[str, Any] = self.suite.ask({"op": "status"})
        used = {each["name"]: each["pid"] for each in status["processes"]}
        return {name: _tree_seconds(pid) for name, pid in used.items()}

    def own_cpu_seconds(self, process: str) -> float:
        """CPU time used so far by one process of the suite, without its children."""
        fields = Path(f"/proc/{self._pid(process)}/stat").read_text().rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:13]) / _TICKS

    def _pid(self, process: str) -> int:
        status: dict[str, Any] = self.suite.ask({"op": "status"})
        return next(int(each["pid"]) for each in status["processes"] if each["name"] == process)

    async def _count(self, query: LiteralString, *values: object) -> tuple[int, ...]:
        url = self.admin_url.replace("/postgres?", "/interlock_orchestrator?")
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            found = await (await connection.execute(query, values)).fetchone()
        return found or ()


@contextlib.asynccontextmanager
async def running_suite(*options: str) -> AsyncIterator[Running]:
    """Start a suite in a new folder, with further options of `up`; stop it in order at the end."""
    with tempfile.TemporaryDirectory(prefix="interlock-bench-") as folder:
        data_dir = Path(folder) / "data"
        # A session of its own, so that Ctrl-C reaches this program first and the suite is stopped in order.
        process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop yet
            [
                sys.executable,
                "-m",
                "interlock_suite",
                "up",
                "--data-dir",
                str(data_dir),
                "--log-level",
                "warning",
                *options,
            ],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await _until((data_dir / "context.json").exists, process)
            yield Running(data_dir=data_dir)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_SECONDS)


async def _until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(_START_SECONDS):
        while not condition():
            if process.poll() is not None:
                raise RuntimeError(f"the suite ended at its start with code {process.returncode}")
            await asyncio.sleep(0.05)


def _tree_seconds(root: int) -> float:
    parents: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name may hold spaces and parentheses; everything of interest follows the last one.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            pid = int(entry.name)
            parents.setdefault(int(fields[1]), []).append(pid)
            # Its own time and that of children it has waited for.
            seconds[pid] = sum(int(field) for field in fields[11:15]) / _TICKS
    waiting, total = [root], 0.0
    while waiting:
        pid = waiting.pop()
        total += seconds.get(pid, 0.0)
        waiting += parents.get(pid, [])
    return total


def manifest(name: str) -> Path:
    """A manifest beside this file."""
    return Path(__file__).parent / name


__all__ = ["Ended", "Ends", "Running", "Written", "manifest", "running_suite"]
