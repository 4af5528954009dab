"""A host worth attacking, and the means to see whether it was: the verdicts come from here, not from a tool.

Only the standard library, so that the same suite runs under any interpreter and user.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.sandbox.denied_calls import DENIED

ENVIRONMENT_NAME = "INTERLOCK_TEST_SECRET"


class World:
    """Listeners that must hear nothing, files that must stay as they are, a process that must live on."""

    def __init__(self) -> None:
        self.secret = f"secret-{secrets.token_hex(12)}"
        self._abstract = f"interlock-{secrets.token_hex(12)}"
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        folder = self.folder = Path(tempfile.mkdtemp(prefix="interlock-world-"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o777)
        self.canary = folder / "canary"
        self.canary.write_text(self.secret)
        self.ledger = folder / "ledger"
        self._write_ledger()
        self._listeners = {
            "tcp": self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix": self._listen(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "stream.sock")),
            "unix_datagram": self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram.sock")),
            "abstract": self._listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self._abstract}"),
        }
        with contextlib.suppress(OSError):  # a host without IPv6 cannot be attacked over it
            self._listeners["tcp6"] = self._listen(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0))
        os.environ[ENVIRONMENT_NAME] = self.secret
        self._stack.callback(os.environ.pop, ENVIRONMENT_NAME, None)
        self._scratch = folder / "scratch"
        self._scratch.mkdir()
        self._leaky = os.open(self.canary, os.O_RDONLY)
        self._stack.callback(os.close, self._leaky)
        os.set_inheritable(self._leaky, True)
        self.victim = subprocess.Popen(["/bin/sleep", "600"], stdin=subprocess.DEVNULL)
        self._stack.callback(self._end_victim)
        self._entries = self._seen_entries()
        self._runtime = _state_of_runtime()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _listen(self, family: int, kind: int, address: object) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.bind(address)  # type: ignore[arg-type]
        if kind == socket.SOCK_STREAM:
            listener.listen(16)
        listener.setblocking(False)
        if isinstance(address, str) and not address.startswith("\0"):
            Path(address).chmod(0o777)
        return listener

    def _end_victim(self) -> None:
        self.victim.kill()
        self.victim.wait()

    def describe(self) -> dict[str, object]:
        """What an attacker is told, so that no attack fails for want of an address."""
        ports = {
            name: listener.getsockname()[1]
            for name, listener in self._listeners.items()
            if name in ("tcp", "tcp6", "udp")
        }
        return {
            "folder": str(self.folder),
            "canary": str(self.canary),
            "ledger": str(self.ledger),
            "unix": str(self.folder / "stream.sock"),
            "unix_datagram": str(self.folder / "datagram.sock"),
            "abstract": self._abstract,
            "victim": self.victim.pid,
            "parent": os.getpid(),
            "calls": DENIED,
            "os_module": os.__file__,
            "scratch": "/tmp",  # noqa: S108  the sandbox's own
            **ports,
        }

    def lend_files(self) -> dict[str, object]:
        """For an attacker who sees the host's files: an empty folder, and a runtime that may be ruined."""
        shutil.rmtree(self._scratch)
        runtime = self._scratch / "runtime"
        runtime.mkdir(parents=True)
        (runtime / "os.py").write_text("# not the real one\n" * 9)
        for path, mode in ((self._scratch, 0o777), (runtime, 0o777), (runtime / "os.py", 0o666)):
            path.chmod(mode)
        return {"scratch": str(self._scratch), "os_module": str(runtime / "os.py")}

    def breaches(self) -> list[str]:
        """What has happened to the host since the last look."""
        found = [f"{name} heard somebody" for name, listener in self._listeners.items() if _heard(listener)]
        found += self._changes_of_ledger()
        if self._seen_entries() != self._entries:
            found.append(f"the folder changed: {sorted(self._seen_entries() ^ self._entries)}")
            self._entries = self._seen_entries()
        if _state_of_runtime() != self._runtime:
            found.append("the standard library was changed")
        if self.victim.poll() is not None:
            found.append("the victim died")
        return found

    def _changes_of_ledger(self) -> list[str]:
        try:
            if self.ledger.read_text() == "untouched":
                return []
        except OSError:
            pass
        self.ledger.unlink(missing_ok=True)
        self._write_ledger()
        return ["the ledger was written to"]

    def _write_ledger(self) -> None:
        self.ledger.write_text("untouched")
        self.ledger.chmod(0o666)

    def _seen_entries(self) -> set[str]:
        return {entry.name for entry in self.folder.iterdir()}


def _state_of_runtime() -> tuple[int, ...]:
    module = Path(os.__file__)
    file, folder = module.stat(), module.parent.stat()
    return file.st_mtime_ns, file.st_size, file.st_mode, file.st_nlink, folder.st_mtime_ns


def _heard(listener: socket.socket) -> bool:
    heard = False
    with contextlib.suppress(BlockingIOError):
        while True:  # all of it, or the next attack is taken for this one
            if listener.type == socket.SOCK_STREAM:
                listener.accept()[0].close()
            else:
                listener.recv(4096)
            heard = True
    return heard


def children_of(pid: int) -> set[int]:
    """Process ids of what any thread of a process has started and not yet reaped."""
    found: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        # A thread that has ended meanwhile has left its children to the others.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update(map(int, (thread / "children").read_text().split()))
    return found


def relatives(bystanders: set[int]) -> set[int]:
    """Everything that stems from this process, but for those children and what stems from them."""
    strangers = bystanders.union(*(descendants(pid) for pid in bystanders))
    return descendants(os.getpid()) - strangers


def descendants(pid: int) -> set[int]:
    """Process ids of everything that stems from a process, itself left out."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: set[int] = set()
    grown = {pid}
    while grown:
        grown = {child for child, parent in parents.items() if parent in grown} - found
        found |= grown
    return found
