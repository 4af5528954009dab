"""The parent's hold on the zygote: start it, ask it for sandboxes, hear of their ends and of its own."""

import asyncio
import contextlib
import functools
import os
import socket
import subprocess
import sys
from pathlib import Path

from interlock_sandbox import messages
from interlock_sandbox.cgroups import CgroupTree
from interlock_sandbox.errors import SandboxUnavailable
from interlock_sandbox.levels import Layer
from interlock_sandbox.limits import Limits
from interlock_sandbox.messages import Op
from interlock_sandbox.profile import Profile
from interlock_sandbox.spare import ExitReport, Spare, SpareFailed

START_SECONDS = 15.0
READY_SECONDS = 10.0

# The package is put together by hand: importing it as usual would load the parent's half of it too.
_BOOTSTRAP = """
import sys, types
package = types.ModuleType("interlock_sandbox")
package.__path__ = [sys.argv[2]]
sys.modules["interlock_sandbox"] = package
from interlock_sandbox.inside.launcher import main
main(int(sys.argv[1]))
"""


class ZygoteRefused(SandboxUnavailable):
    """The zygote could not be built with the layers demanded."""

    def __init__(self, layer: Layer, step: str, errno: int) -> None:
        super().__init__(f"{layer}: {step}")
        self.layer = layer
        self.step = step
        self.errno = errno


class ZygoteProcess:
    """One zygote. Belongs to one event loop; never restarted, only replaced."""

    def __init__(
        self, layers: frozenset[Layer], cgroups: CgroupTree | None = None, profile: Profile | None = None
    ) -> None:
        """Of the layers only control groups are the parent's own work, and need `cgroups`."""
        self.layers = layers
        self._profile = profile or Profile()
        self._cgroups = cgroups if Layer.CGROUPS in layers else None
        self.python = ""
        self.dead = asyncio.Event()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: asyncio.Future[dict[str, object]] | None = None
        self._next_id = 0
        self._awaiting_pidfd: dict[int, asyncio.Future[int]] = {}
        self._spares: dict[int, Spare] = {}

    @property
    def pid(self) -> int:
        """Process id of the launcher, whose only child is the zygote."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start it; raises ZygoteRefused with the layer that this host does not allow."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            self._process = _start_interpreter(theirs.fileno(), self._profile.python)
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        configuration = {
            "layers": sorted(self.layers),
            "packages": self._profile.packages,
            "preload": list(self._profile.preload),
        }
        messages.send(ours, Op.CONFIGURE, configuration)
        loop.add_reader(ours.fileno(), self._on_readable)
        try:
            async with asyncio.timeout(START_SECONDS):
                message = await self._ready
        except TimeoutError:
            await self.close()
            raise SandboxUnavailable(f"the zygote was not ready within {START_SECONDS:g} s") from None
        if message["op"] != Op.READY:
            await self.close()
            raise ZygoteRefused(
                Layer(str(message["layer"])), str(message["step"]), int(str(message["errno"]))
            )
        self.python = str(message["python"])

    async def spawn(self, *, disk_bytes: int) -> Spare:
        """A new sandbox that waits for its program; raises SpareFailed."""
        if self._socket is None or self.dead.is_set():
            raise SpareFailed("namespaces", "the zygote is gone", 0)
        self._next_id += 1
        try:
            spare, theirs = _new_spare(self._next_id, disk_bytes)
        except OSError as error:
            raise SpareFailed("namespaces", f"no channel: {error}", error.errno or 0) from error
        self._spares[spare.id] = spare
        try:
            spare.pidfd = await self._request_clone(self._socket, spare, theirs)
            async with asyncio.timeout(READY_SECONDS):
                await spare.wait_until_ready()
                await self._bound_tree(spare)
        except TimeoutError:
            spare.close()
            raise SpareFailed("namespaces", f"it was not ready within {READY_SECONDS:g} s", 0) from None
        except BaseException:
            spare.close()
            raise
        return spare

    async def _bound_tree(self, spare: Spare) -> None:
        """Into a control group, while nothing of a tool's runs in it yet."""
        if self._cgroups is None:
            return
        limits = Limits(disk_bytes=spare.disk_bytes)
        try:
            spare.cgroup = await asyncio.to_thread(self._cgroups.admit, spare.host_pid, limits)
        except OSError as error:
            raise SpareFailed(Layer.CGROUPS, error.strerror or "refused", error.errno or 0) from error
        spare.give_back = functools.partial(self._cgroups.give_back, spare.cgroup)

    async def _request_clone(self, sock: socket.socket, spare: Spare, theirs: list[int]) -> int:
        pidfd: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._awaiting_pidfd[spare.id] = pidfd
        try:
            fields = {"id": spare.id, "disk_bytes": spare.disk_bytes}
            messages.send(sock, Op.SPAWN, fields, descriptors=theirs)
        except OSError as error:
            self._awaiting_pidfd.pop(spare.id, None)
            step = f"the zygote takes no request: {error}"
            raise SpareFailed("namespaces", step, error.errno or 0) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return await pidfd

    async def close(self) -> None:
        """End the zygote and every sandbox it made; returns when they are gone."""
        self._lose()
        process, self._process = self._process, None
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, 2)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)

    async def wait_until_idle(self) -> None:
        """Return when none of its sandboxes is left."""
        while self._spares:
            await asyncio.wait([spare.exited for spare in self._spares.values()])

    def _on_readable(self) -> None:
        while self._socket is not None:
            try:
                received = messages.receive(self._socket)
            except BlockingIOError:
                return
            if received is None:
                self._lose()
            else:
                self._handle(*received)

    def _handle(self, message: dict[str, object], descriptors: list[int]) -> None:
        op = message["op"]
        if op in (Op.READY, Op.REFUSED):
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(message)
        elif op == Op.SPAWNED:
            self._deliver_pidfd(int(str(message["id"])), descriptors[0])
        elif op == Op.NOT_SPAWNED:
            waiting = self._awaiting_pidfd.pop(int(str(message["id"])), None)
            if waiting is not None and not waiting.done():
                step, errno = str(message["step"]), int(str(message["errno"]))
                waiting.set_exception(SpareFailed("namespaces", step, errno))
        elif op == Op.EXITED:
            self._note_exit(message)

    def _deliver_pidfd(self, spare_id: int, pidfd: int) -> None:
        waiting = self._awaiting_pidfd.pop(spare_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(pidfd)
        else:  # nobody waits any more; the sandbox ends when it finds its channel closed
            os.close(pidfd)

    def _note_exit(self, message: dict[str, object]) -> None:
        spare = self._spares.pop(int(str(message["id"])), None)
        if spare is not None and not spare.exited.done():
            report = ExitReport(
                status=int(str(message["status"])),
                cpu_seconds=float(str(message["cpu_seconds"])),
                peak_rss_bytes=int(str(message["peak_rss_bytes"])),
            )
            spare.exited.set_result(report)

    def _lose(self) -> None:
        """The zygote is gone, or shall be; first in its process namespace, it takes every sandbox along."""
        if self._socket is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop may be closed already
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.dead.set()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(SandboxUnavailable("the zygote died while it was being built"))
        for waiting in self._awaiting_pidfd.values():
            if not waiting.done():
                waiting.set_exception(SpareFailed("namespaces", "the zygote died", 0))
        self._awaiting_pidfd.clear()
        for spare in self._spares.values():
            if not spare.exited.done():
                spare.exited.set_result(None)
        self._spares.clear()


def _start_interpreter(descriptor: int, python: str) -> subprocess.Popen[bytes]:
    """A fresh interpreter with nothing of ours: no environment, no site packages, one descriptor."""
    python = python or getattr(sys, "_base_executable", "") or sys.executable
    package = str(Path(__file__).resolve().parent)
    options = ["-I", "-S", "-E", "-B", "-X", "utf8"]
    return subprocess.Popen(
        [python, *options, "-c", _BOOTSTRAP, str(descriptor), package],
        env={},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    )


def _new_spare(spare_id: int, disk_bytes: int) -> tuple[Spare, list[int]]:
    """Our half of a new sandbox, and the descriptors of the other half."""
    with contextlib.ExitStack() as undo:
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        undo.callback(channel.close)
        undo.callback(theirs.close)
        stdout, their_stdout = _pipe(undo)
        stderr, their_stderr = _pipe(undo)
        undo.pop_all()
    channel.setblocking(False)
    spare = Spare(
        id=spare_id,
        disk_bytes=disk_bytes,
        channel=channel,
        stdout=stdout,
        stderr=stderr,
        exited=asyncio.get_running_loop().create_future(),
    )
    return spare, [theirs.detach(), their_stdout, their_stderr]


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe()
    undo.callback(os.close, reading)
    undo.callback(os.close, writing)
    os.set_blocking(reading, False)
    return reading, writing
