"""The embedded Valkey: nudges only; everything in it may be lost."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from interlock_suite.binaries import find_valkey
from interlock_suite.command import Command
from interlock_suite.passwords import password, write_private

log = logging.getLogger(__name__)

# How it says that it cannot load what it wrote before.
_DAMAGE = ("AOF MANIFEST FILE ERROR", "reading the append only file", "Fatal error loading the DB")
# The title would overwrite the environment, by which leftovers are known.
_CONFIGURATION = """\
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
dir {data}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
set-proc-title no
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyPlace:
    """Where one Valkey keeps its things."""

    data: Path
    socket: Path
    password_file: Path
    log: Path


class EmbeddedValkey:
    """One Valkey server, reachable by unix socket and password alone."""

    def __init__(self, place: ValkeyPlace, program: Path) -> None:
        self._place = place
        self._program = program

    @classmethod
    def prepare(cls, place: ValkeyPlace) -> "EmbeddedValkey":
        """Find the program and write its configuration."""
        place.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = cls(place, find_valkey())
        text = _CONFIGURATION.format(
            socket=_quoted(place.socket),
            data=_quoted(place.data),
            password=password(place.password_file),
        )
        # A file, because the command line is readable by every user of the machine.
        write_private(server._configuration, text)
        return server

    @property
    def url(self) -> str:
        """The URL for redis-py; it holds the password."""
        return f"unix://:{password(self._place.password_file)}@{self._place.socket}?db=0"

    def command(self) -> Command:
        """The server itself; SIGTERM lets it write its log to the end."""
        return Command(
            argv=(str(self._program), str(self._configuration)), cwd=self._place.data, log=self._place.log
        )

    def ready(self) -> bool:
        """Whether it answers now, its log loaded."""
        client = redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2)
        try:
            return bool(client.ping())
        except (redis.RedisError, OSError):
            return False
        finally:
            client.close()

    def set_damage_aside(self) -> bool:
        """Whether the last start failed over its files; then they were moved away, as none is needed."""
        if not _tells_of_damage(self._place.log):
            return False
        aside = self._place.data.with_name(f"{self._place.data.name}.damaged-{int(time.time())}")
        aside.mkdir(mode=0o700)
        for path in self._place.data.iterdir():
            if path != self._configuration:
                path.rename(aside / path.name)
        log.warning("Valkey's files were damaged; they are in %s now, and it starts empty.", aside)
        return True

    @property
    def _configuration(self) -> Path:
        return self._place.data / "valkey.conf"


def _tells_of_damage(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8", errors="replace")
    last_run = lines.rpartition(" is starting ")[2]
    return any(words in last_run for words in _DAMAGE)


def _quoted(path: Path) -> str:
    text = os.fspath(path)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
