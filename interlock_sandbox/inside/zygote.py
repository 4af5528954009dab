"""The zygote: a single-threaded process that makes sandboxes and never runs a tool's code."""

import gc
import importlib
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from types import ModuleType

from interlock_sandbox import messages
from interlock_sandbox.inside import landlock, namespaces, privileges, rootfs, seccomp
from interlock_sandbox.inside.child import ChildPlan, become_sandbox
from interlock_sandbox.inside.runtime_files import RuntimeFiles
from interlock_sandbox.inside.setup_error import SetupError, applying
from interlock_sandbox.inside.syscall_numbers import this_architecture
from interlock_sandbox.inside.syscalls import clone_process, limit_malloc_arenas
from interlock_sandbox.levels import Layer

# What most tools import; loaded once here, they are shared by every sandbox.
_PRELOADED = """
asyncio base64 binascii bisect calendar collections contextlib copy csv dataclasses datetime decimal enum
fractions functools hashlib heapq hmac html inspect io itertools json linecache math operator os pathlib
pprint queue random re secrets statistics string struct tempfile textwrap threading time traceback types
typing unicodedata urllib.parse uuid zlib
""".split()  # noqa: SIM905  a list that is read as one


_MESSAGE = 300


def preload() -> None:
    """Load common modules, and tell the collector that nothing loaded so far is garbage."""
    for name in _PRELOADED:
        importlib.import_module(name)
    limit_malloc_arenas(2)
    gc.collect()
    gc.freeze()


def packages_inside(layers: frozenset[Layer], runtime: RuntimeFiles) -> str:
    """Where programs find the packages of their profile; empty without any."""
    return rootfs.PACKAGES if runtime.packages and Layer.ROOT in layers else runtime.packages


def load_packages(layers: frozenset[Layer], runtime: RuntimeFiles) -> None:
    """Let programs import what their profile has, and load some of it beforehand; raises SetupError."""
    if not runtime.packages:
        return
    sys.path.append(packages_inside(layers, runtime))
    for name in runtime.modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever the package raises
            said = f"{name} of the profile could not be loaded: {type(error).__name__}: {error}"
            raise SetupError(Layer.ROOT, said[:_MESSAGE], 0) from None
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - pathlib would hide which call is made
        # A thread does not survive a fork, and whoever waits for it waits for ever.
        raise SetupError(
            Layer.ROOT, f"loading {', '.join(runtime.modules)} of the profile started threads", 0
        )
    gc.collect()
    gc.freeze()


# Written by us; nothing of the host's environment is known here.
_ENVIRONMENT = {"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC"}  # noqa: S108  the sandbox's own

_KEPT: list[ModuleType] = []


@dataclass(frozen=True, slots=True)
class _Sandbox:
    id: int
    pid: int


class Zygote:
    """Serves one parent over one socket; every request makes one sandbox, every end of one is reported."""

    def __init__(
        self, parent: socket.socket, *, layers: frozenset[Layer], runtime: RuntimeFiles, proc: int
    ) -> None:
        self._parent = parent
        self._poll = select.poll()
        self._poll.register(parent.fileno(), select.POLLIN)
        self._sandboxes: dict[int, _Sandbox] = {}
        self._plan = _plan(layers, runtime, proc)

    def serve(self) -> None:
        """Make sandboxes until the parent is gone."""
        _appear_as_sandbox()
        messages.send(self._parent, messages.Op.READY, {"python": sys.version.split()[0]})
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._parent.fileno():
                    self._report_exit(descriptor)
                elif not self._answer():
                    return  # the parent is gone; as first process we take every sandbox with us

    def _answer(self) -> bool:
        received = messages.receive(self._parent)
        if received is None:
            return False
        message, descriptors = received
        try:
            self._spawn(int(str(message["id"])), int(str(message["disk_bytes"])), descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _spawn(self, sandbox_id: int, disk_bytes: int, descriptors: list[int]) -> None:
        # The same in the sandbox, which would have to open a /proc that nobody has used yet.
        baseline = privileges.Baseline.measure()
        try:
            pid, pidfd = clone_process(self._plan.clone_flags)
        except OSError as error:
            self._tell_not_spawned(sandbox_id, error)
            return
        if pid == 0:
            become_sandbox(self._plan, disk_bytes=disk_bytes, descriptors=descriptors, baseline=baseline)
        self._sandboxes[pidfd] = _Sandbox(sandbox_id, pid)
        self._poll.register(pidfd, select.POLLIN)
        try:
            messages.send(self._parent, messages.Op.SPAWNED, {"id": sandbox_id}, descriptors=(pidfd,))
        except OSError as error:  # no descriptor may be sent now: nobody could hold this sandbox
            os.kill(pid, signal.SIGKILL)
            self._tell_not_spawned(sandbox_id, error)

    def _tell_not_spawned(self, sandbox_id: int, error: OSError) -> None:
        failure = {"id": sandbox_id, "step": error.strerror, "errno": error.errno}
        messages.send(self._parent, messages.Op.NOT_SPAWNED, failure)

    def _report_exit(self, pidfd: int) -> None:
        sandbox = self._sandboxes.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(sandbox.pid, 0)
        report = {
            "id": sandbox.id,
            "status": status,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_rss_bytes": usage.ru_maxrss * 1024,
        }
        messages.send(self._parent, messages.Op.EXITED, report)


def _appear_as_sandbox() -> None:
    """What every program shall find, put in place once: whatever a sandbox writes to costs it a copy."""
    os.environ.clear()
    os.environ.update(_ENVIRONMENT)
    sys.argv = ["tool"]
    # Out of the tool's way, yet kept: they are in use.
    own = [name for name in sys.modules if name.partition(".")[0] == "interlock_sandbox"]
    _KEPT.extend(sys.modules.pop(name) for name in own)
    gc.freeze()


def _plan(layers: frozenset[Layer], runtime: RuntimeFiles, proc: int) -> ChildPlan:
    contained = Layer.NAMESPACES in layers
    readable = [*runtime.folders, *runtime.libraries, "/etc/passwd", "/etc/group"]
    allowed = dict.fromkeys(readable, landlock.READ)
    if runtime.packages:
        allowed[packages_inside(layers, runtime)] = landlock.READ
    allowed |= {f"/dev/{name}": landlock.DEVICE for name in rootfs.DEVICES}
    if Layer.ROOT in layers:  # else these are the host's
        allowed |= {rootfs.SCRATCH: landlock.SCRATCH, "/proc": landlock.READ}
    with applying(Layer.LANDLOCK):
        files = landlock.prepare(allowed) if Layer.LANDLOCK in layers else None
    return ChildPlan(
        layers=layers,
        clone_flags=namespaces.sandbox_flags(network=Layer.NETWORK in layers) if contained else 0,
        uid=os.geteuid(),
        gid=os.getegid(),
        proc=proc,
        files=files,
        filter=seccomp.build_filter(this_architecture(), own_process_namespace=contained),
    )
