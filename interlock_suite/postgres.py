"""The embedded PostgreSQL: its data folder, its command line, its readiness."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg

from interlock_suite.binaries import PostgresBinaries, find_postgres
from interlock_suite.command import Command, Identity, environment, launched
from interlock_suite.errors import SuiteError
from interlock_suite.identity import choose_identity, give_to_nobody
from interlock_suite.passwords import password

SUPERUSER = "postgres"
_INITDB_SECONDS = 120
# Without each of these an acknowledged commit may be lost.
_DURABILITY = ("fsync", "synchronous_commit", "full_page_writes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresPlace:
    """Where one PostgreSQL keeps its things."""

    data: Path
    socket: Path
    """The folder of its unix socket; the only door."""
    password_file: Path
    log: Path


class EmbeddedPostgres:
    """One PostgreSQL server on a data folder of its own, reachable by unix socket and password alone."""

    def __init__(
        self, place: PostgresPlace, binaries: PostgresBinaries, identity: Identity, *, max_connections: int
    ) -> None:
        self._place = place
        self._binaries = binaries
        self._identity = identity
        self._max_connections = max_connections

    @classmethod
    def prepare(
        cls,
        place: PostgresPlace,
        *,
        max_connections: int = 200,
        before_nobody: Callable[[], None] = lambda: None,
    ) -> "EmbeddedPostgres":
        """Find the programs that fit the data folder and make the folder if it is not there.

        `before_nobody` is called when the server must run as nobody, who has to be let through to its place.
        """
        binaries = find_postgres(data_version(place.data))
        identity = choose_identity(str(binaries.postgres))
        server = cls(place, binaries, identity, max_connections=max_connections)
        _make_folder(place.socket)
        if identity is Identity.NOBODY:
            before_nobody()
        if not (place.data / "PG_VERSION").exists():
            server._initialise()
        if identity is Identity.NOBODY:
            give_to_nobody(place.data)
            give_to_nobody(place.socket)
        return server

    @property
    def url(self) -> str:
        """The superuser's URL; it holds the password."""
        login = f"{SUPERUSER}:{password(self._place.password_file)}"
        return f"postgresql://{login}@/postgres?host={quote(str(self._place.socket), safe='')}"

    def command(self) -> Command:
        """The server itself: SIGINT is its fast stop, SIGQUIT its immediate one, which ends backends too."""
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._place.socket),
            "unix_socket_permissions": "0700",
            "max_connections": str(self._max_connections),
            "password_encryption": "scram-sha-256",
            "log_destination": "stderr",
            "logging_collector": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return Command(
            argv=(str(self._binaries.postgres), "-D", str(self._place.data), *flags),
            cwd=self._place.data,
            log=self._place.log,
            identity=self._identity,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
        )

    def ready(self) -> bool:
        """Whether it accepts connections now."""
        try:
            with psycopg.connect(self.url, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def _initialise(self) -> None:
        """Make the data folder beside its place and move it there, so that a broken-off start leaves none."""
        draft = self._place.data.with_name(self._place.data.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        password(self._place.password_file)
        handed_over = draft.with_name(draft.name + ".password")
        shutil.copyfile(self._place.password_file, handed_over)
        handed_over.chmod(0o600)
        if self._identity is Identity.NOBODY:
            give_to_nobody(draft)
            give_to_nobody(handed_over)
        try:
            self._run_initdb(draft, handed_over)
        finally:
            handed_over.unlink()
        draft.rename(self._place.data)

    def _run_initdb(self, data: Path, password_file: Path) -> None:
        options = [f"--pgdata={data}", f"--pwfile={password_file}", f"--username={SUPERUSER}"]
        options += ["--auth=scram-sha-256", "--locale=C.UTF-8", "--encoding=UTF8"]
        argv = (str(self._binaries.initdb), *options)
        answer = subprocess.run(
            launched(argv, identity=self._identity, death_signal=signal.SIGKILL),
            env=environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INITDB_SECONDS,
            check=False,
        )
        if answer.returncode != 0:
            said = answer.stderr.strip().splitlines() or ["nothing"]
            raise SuiteError(
                f"PostgreSQL could not make its data folder {data}; it said: {said[-1]}",
                "Mend what it names, or start with another --data-dir.",
            )


def data_version(data: Path) -> int | None:
    """The major version that made this data folder; None when there is none yet."""
    try:
        return int((data / "PG_VERSION").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise SuiteError(
            f"{data} does not look like a PostgreSQL data folder: its PG_VERSION cannot be read.",
            "Restore it from a backup, or start with another --data-dir.",
        ) from None


def refuse_without_durability(url: str) -> None:
    """Refuse a server that may forget what it acknowledged."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        for setting in _DURABILITY:
            row = connection.execute(f"SHOW {setting}").fetchone()
            if row is not None and row[0] == "off":
                raise SuiteError(
                    f"PostgreSQL runs with {setting} = off: acknowledged tasks and entries could be lost.",
                    f"Set {setting} = on in its configuration and start again.",
                )


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o700)
