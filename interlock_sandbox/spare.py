"""One sandbox that stands ready, as its parent holds it."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH123

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from interlock_sandbox.cgroups import Cgroup
from interlock_sandbox.errors import SandboxError
from interlock_sandbox.frames import ERROR_BYTES, FrameKind, FrameReader


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitReport:
    """How a sandbox's first process ended, as the zygote saw it."""

    status: int
    """As `os.wait` gives it."""
    cpu_seconds: float
    peak_rss_bytes: int


class SpareFailed(SandboxError):
    """A sandbox could not be made; `layer`, `step` and `errno` say where it stopped."""

    def __init__(self, layer: str, step: str, errno: int) -> None:
        super().__init__(f"a sandbox could not be made: {layer}: {step}")
        self.layer = layer
        self.step = step
        self.errno = errno


@dataclass(slots=True, kw_only=True)
class Spare:
    """Descriptors and identity of one sandbox; used for one call, then killed."""

    id: int
    disk_bytes: int
    channel: socket.socket
    stdout: int
    stderr: int
    exited: asyncio.Future[ExitReport | None]
    """Resolved once the process is gone; None if nobody is left to say how."""
    pidfd: int = -1
    host_pid: int = 0
    cgroup: Cgroup | None = None
    """The control group that it is in; None on a host without them."""
    give_back: Callable[[], None] | None = None
    """Frees the group, in a thread, once the process is gone and nobody asks the group any more."""
    cpu_seconds_before: float = 0.0
    _proc_status: int = -1
    _closed: bool = False

    async def wait_until_ready(self) -> None:
        """Returns once every layer is applied; raises SpareFailed with the step that failed."""
        reader = FrameReader(result_bytes=ERROR_BYTES)
        frame = None
        while frame is None:
            data = await asyncio.get_running_loop().sock_recv(self.channel, 65536)
            if not data:
                raise SpareFailed("namespaces", "it died before it was ready", 0)
            frame = reader.feed(data)
        kind, payload = frame
        if kind is not FrameKind.READY:
            failure = json.loads(payload)
            raise SpareFailed(failure["layer"], failure["step"], failure["errno"])
        self.host_pid = _pid_behind(self.pidfd)
        with contextlib.suppress(OSError):  # a /proc that hides it costs us only what it used
            self._proc_status = os.open(f"/proc/{self.host_pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        self.cpu_seconds_before = self.cpu_seconds()

    def is_alive(self) -> bool:
        """Whether it still waits for its program, as far as the zygote has said."""
        return not self.exited.done()

    def cpu_seconds(self) -> float:
        """Processor time used so far by all its threads; what was last known once it is gone."""
        try:
            # The kernel's clock of another process: its id, inverted, above the bits for "scheduler time".
            return time.clock_gettime((~self.host_pid << 3) | 2)
        except OSError:
            return self.cpu_seconds_before

    def peak_rss_bytes(self) -> int:
        """The kernel's count of it, 0 once it is gone."""
        try:
            _, _, rest = os.pread(self._proc_status, 4096, 0).partition(b"VmHWM:")
        except OSError:
            return 0
        return int(rest.split(None, 1)[0]) * 1024 if rest else 0

    def kill(self) -> None:
        """Kill its first process, and with that everything in its process namespace."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Kill it and let go of its descriptors."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        self.channel.close()
        for descriptor in (self.pidfd, self.stdout, self.stderr, self._proc_status):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = -1
        if self.give_back is not None:
            self.exited.add_done_callback(functools.partial(_in_a_thread, self.give_back))


def _in_a_thread(work: Callable[[], None], exited: "asyncio.Future[ExitReport | None]") -> None:
    exited.get_loop().run_in_executor(None, work)


def _pid_behind(pidfd: int) -> int:
    """The process's id as we see it."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        for line in file:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0
