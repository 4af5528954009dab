"""Giving up every privilege, and bounding what is left."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH123

import errno
import math
import os
import resource
from dataclasses import dataclass

from interlock_sandbox.inside.syscalls import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
    PR_SET_DUMPABLE,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECUREBITS,
    clear_capability_sets,
    prctl,
)

TOOL_ID = 1000
"""User and group id that a tool sees itself as."""

# noroot, no_setuid_fixup, no ambient raise, each locked: no change of id brings capabilities back.
_SECUREBITS = 0b11101111
_REPORTING_HEADROOM = 8 * 1024 * 1024
"""Address space kept back so that an exhausted tool's error can still be told."""
_WAITING_SIGNALS = 256
"""Kept in the kernel's memory where no other limit counts them, and counted over all sandboxes of a user."""


def drop_capabilities() -> None:
    """Empty all five capability sets of this process, lock them, and set `no_new_privs`."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    try:
        prctl(PR_SET_SECUREBITS, _SECUREBITS)
        _empty_bounding_set()
    except PermissionError:
        # Neither can be done without CAP_SETPCAP, and neither is needed: no_new_privs bars every gain.
        pass
    clear_capability_sets()
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def _empty_bounding_set() -> None:
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last one this kernel knows
                return
            raise


def set_standing_limits() -> None:
    """The bounds that hold for every sandbox, whatever the call allows."""
    for kind in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(kind, (0, 0))
    _, ceiling = resource.getrlimit(resource.RLIMIT_SIGPENDING)
    waiting = _WAITING_SIGNALS if ceiling == resource.RLIM_INFINITY else min(ceiling, _WAITING_SIGNALS)
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (waiting, waiting))
    # A crash must not hand the tool's memory to a core-dump program of the host, which runs as root: 0 would
    # only bar files, 1 is the kernel's word for "no program either", and so is not being dumpable.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    prctl(PR_SET_DUMPABLE, 0)


_BOUNDED = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_NPROC,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_FSIZE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """The part of a call's limits that the kernel keeps per process."""

    cpu_seconds: float
    memory_bytes: int
    processes: int
    open_files: int
    disk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a sandbox uses before its program comes, which does not count against the program."""

    address_space: int

    @classmethod
    def measure(cls) -> "Baseline":
        """That of this process."""
        return cls(address_space=_address_space())

    def bound(self, limits: CallLimits | None) -> None:
        """Set the bounds of one call; without limits go through the motions and change nothing."""
        for kind, wanted in self._bounds(limits).items():
            _, ceiling = resource.getrlimit(kind)
            endless = ceiling == resource.RLIM_INFINITY
            soft, hard = wanted if endless else (min(value, ceiling) for value in wanted)
            resource.setrlimit(kind, (soft, hard))

    def _bounds(self, limits: CallLimits | None) -> dict[int, tuple[int, int]]:
        if limits is None:
            return {kind: resource.getrlimit(kind) for kind in _BOUNDED}
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = math.ceil(used.ru_utime + used.ru_stime + limits.cpu_seconds)
        memory = self.address_space + limits.memory_bytes
        return {
            resource.RLIMIT_AS: (memory, memory + _REPORTING_HEADROOM),
            resource.RLIMIT_CPU: (cpu, cpu),
            resource.RLIMIT_NPROC: (limits.processes, limits.processes),
            resource.RLIMIT_NOFILE: (limits.open_files, limits.open_files),
            resource.RLIMIT_FSIZE: (limits.disk_bytes, limits.disk_bytes),
        }


def use_reporting_headroom() -> None:
    """Open the reserve, after a tool has run out of memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _address_space() -> int:
    """Bytes of address space mapped by this process; 0 without a /proc, which makes the limit stricter."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
