"""A program to run: what, with which surroundings, and how it is asked to stop."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from interlock_suite.guard import MARK_VARIABLE

_LAUNCHER = Path(__file__).with_name("launcher.py")
# What a program needs of the supervisor's own environment; everything else stays here.
_INHERITED = ("PATH", "TZ", "TMPDIR")


class Identity(StrEnum):
    """Under whose name a program runs."""

    SELF = "self"
    MAPPED = "mapped"
    """Root outside, an ordinary user inside a user namespace; files stay root's."""
    NOBODY = "nobody"
    """Really the user nobody, who must own what the program writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One program, started with an environment built from nothing."""

    argv: tuple[str, ...]
    cwd: Path
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    identity: Identity = Identity.SELF
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals = signal.SIGKILL
    """Sent by the kernel when the supervisor dies, however it dies."""

    def marked(self, mark: str, name: str) -> "Command":
        """The same, known as this process of the suite with this mark; so is all that it starts."""
        return replace(self, env={**self.env, MARK_VARIABLE: f"{mark}/{name}/"})

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it in a session of its own; it dies with the calling *thread*: call from a lasting one."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                launched(self.argv, identity=self.identity, death_signal=self.death_signal),
                cwd=self.cwd,
                env=environment(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def launched(argv: tuple[str, ...], *, identity: Identity, death_signal: signal.Signals) -> list[str]:
    """The command line that runs `argv` through the launcher."""
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER)]
    return [*launcher, str(os.getpid()), str(int(death_signal)), identity.value, *argv]


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a child: the little it needs to run, and its own settings."""
    base = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    base.setdefault("PATH", os.defpath)
    return {**base, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **settings}
