"""A real PostgreSQL and a real Valkey for the tests of every package, one of each per test session."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg import sql

from interlock_suite.databases import RolePasswords, ServiceDatabase, provision, with_database
from interlock_suite.postgres import EmbeddedPostgres, PostgresPlace
from interlock_suite.valkey import EmbeddedValkey, ValkeyPlace
from svc_kit.migrations import run_migrations
from tests.suite.harness import descendants

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

    def abandon(self) -> None:
        """End it at once; what it held is of no more use."""
        self._end(self.server.command().death_signal)

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
    _shared: dict[str, "MigratedDatabase"] = field(default_factory=dict, init=False)

    def kill(self) -> None:
        """Kill it with all its children: one of them may answer for a moment after the first is gone."""
        for pid in descendants(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().kill()

    def make_database(self, service: str) -> ServiceDatabase:
        """A fresh, empty database with the roles `<service>_owner` and `<service>`."""
        name = f"interlock_{service}_{next(self._numbers)}"
        return provision(self.url, service=service, database=name, passwords=_PASSWORDS)

    def migrated_database(self, service: str) -> ServiceDatabase:
        """A fresh database with the tables of a service, and the rows that its migrations put there."""
        made = self.make_database(service)
        run_migrations(f"{service}_svc", made.owner_url, grants_to=made.service_role)
        return made

    def emptied_database(self, service: str) -> ServiceDatabase:
        """The one database of a service that tests use in turn, as fresh as after its migrations.

        Whoever is still connected to it is cut off.
        """
        if service not in self._shared:
            made = self.migrated_database(service)
            self._shared[service] = MigratedDatabase(made, with_database(self.url, made.name))
        return self._shared[service].emptied()


class MigratedDatabase:
    """A database that can be put back to where its migrations left it."""

    def __init__(self, made: ServiceDatabase, admin_url: str) -> None:
        self._made = made
        self._admin_url = admin_url
        with psycopg.connect(admin_url, autocommit=True) as connection:
            self._rows = {table: _copy_out(connection, table) for table in _filled(connection)}

    def emptied(self) -> ServiceDatabase:
        """Put it back; the database itself, its roles and its schema stay."""
        with psycopg.connect(self._admin_url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            # No trigger and no foreign key minds.
            connection.execute("SET LOCAL session_replication_role = replica")
            filled = _filled(connection)
            if filled:
                tables = sql.SQL(", ").join(map(sql.Identifier, filled))
                connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(tables))
            for table, rows in self._rows.items():
                with connection.cursor().copy(
                    sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
                ) as copy:
                    copy.write(rows)
        return self._made


def _filled(connection: "psycopg.Connection[Any]") -> list[str]:
    """The tables that hold rows."""
    tables = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition"
    ).fetchall()
    each = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {}, EXISTS (SELECT FROM {})").format(sql.Literal(name), sql.Identifier(name))
        for (name,) in tables
    )
    return [name for name, filled in connection.execute(each).fetchall() if filled]


def _copy_out(connection: "psycopg.Connection[Any]", table: str) -> bytes:
    with connection.cursor().copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
        return b"".join(bytes(part) for part in copy)


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
        server.abandon()
        shutil.rmtree(folder, ignore_errors=True)
