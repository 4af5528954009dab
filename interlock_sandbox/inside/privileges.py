"""Giving up every privilege, and bounding what is left."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH123

import errno
import math
import os
import resource

from interlock_sandbox.inside.syscalls import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAPBSET_DROP,
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
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(kind, (0, 0))


def set_call_limits(
    *, cpu_seconds: float, memory_bytes: int, processes: int, open_files: int, disk_bytes: int
) -> None:
    """The bounds of one call; counted from what the sandbox already uses."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = math.ceil(used.ru_utime + used.ru_stime + cpu_seconds)
    memory = _address_space() + memory_bytes
    _lower(resource.RLIMIT_AS, memory, memory + _REPORTING_HEADROOM)
    _lower(resource.RLIMIT_CPU, cpu, cpu)
    _lower(resource.RLIMIT_NPROC, processes, processes)
    _lower(resource.RLIMIT_NOFILE, open_files, open_files)
    _lower(resource.RLIMIT_FSIZE, disk_bytes, disk_bytes)


def _lower(kind: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


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
