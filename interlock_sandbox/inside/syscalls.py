"""Linux system calls that Python does not offer, by ctypes."""

import ctypes
import os
import signal
from collections.abc import Callable

from interlock_sandbox.inside.syscall_numbers import this_architecture

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_THREAD = 0x00010000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
AT_FDCWD = -100
AT_RECURSIVE = 0x8000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# PyDLL keeps the interpreter lock over the call: a clone made with the lock released would leave the child
# holding a lock that a thread of the parent owns.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.unshare.argtypes = [ctypes.c_int]
_libc.sethostname.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def _raise_errno(what: str) -> None:
    code = ctypes.get_errno()
    raise OSError(code, f"{what}: {os.strerror(code)}")


def syscall(name: str, *arguments: object) -> int:
    """Make the named call; raises OSError with the call's name.

    Integers are passed as C longs; ctypes objects are passed as they are.
    """
    number = this_architecture().number(name)
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    result: int = _libc.syscall(ctypes.c_long(number or -1), *converted)
    if result < 0:
        _raise_errno(name)
    return result


def prctl(option: int, *arguments: int) -> None:
    """Set an attribute of this process."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    if _libc.prctl(option, *padded) < 0:
        _raise_errno(f"prctl({option})")


def unshare(flags: int) -> None:
    """Move this process (for pid namespaces: its next child) into new namespaces."""
    if _libc.unshare(flags) < 0:
        _raise_errno("unshare")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system, or bind a part of the tree (`kind` None); `data` are its options."""
    encoded = (source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode())
    if _libc.mount(*encoded) < 0:
        _raise_errno(f"mount {kind or 'bind'} on {target}")


class _MountAttributes(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def add_mount_attributes(target: str, attributes: int, *, recursive: bool = False) -> None:
    """Tighten a mount that exists (read-only, nosuid, nodev, noexec)."""
    request = _MountAttributes(attr_set=attributes)
    flags = AT_RECURSIVE if recursive else 0
    path = ctypes.c_char_p(target.encode())
    syscall("mount_setattr", AT_FDCWD, path, flags, ctypes.byref(request), ctypes.sizeof(request))


def pivot_root(new_root: str, put_old: str) -> None:
    """Make a mount the root of this mount namespace, and hang the old root below it."""
    syscall("pivot_root", ctypes.c_char_p(new_root.encode()), ctypes.c_char_p(put_old.encode()))


def unmount_lazily(target: str) -> None:
    """Detach a mount and all below it."""
    if _libc.umount2(target.encode(), MNT_DETACH) < 0:
        _raise_errno(f"umount {target}")


def set_host_name(name: str) -> None:
    """Name this UTS namespace."""
    encoded = name.encode()
    if _libc.sethostname(encoded, len(encoded)) < 0:
        _raise_errno("sethostname")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def clear_capability_sets() -> None:
    """Empty the effective, permitted and inheritable sets."""
    header = _CapabilityHeader(version=0x20080522, pid=0)
    syscall("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def limit_malloc_arenas(count: int) -> None:
    """Keep glibc from reserving 64 MiB of address space per thread, which memory limits would count."""
    mallopt: Callable[[int, int], int] | None = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(-8, count)


def clone_process(flags: int) -> tuple[int, int]:
    """Fork into new namespaces; returns (pid, pidfd), or (0, -1) in the child.

    The raw call is used because `unshare(CLONE_NEWPID)` works once per process only, and the zygote needs a
    new pid namespace for every child. Only for single-threaded processes.
    """
    pidfd = ctypes.c_int(-1)
    ctypes.pythonapi.PyOS_BeforeFork()
    try:
        pid = syscall("clone", flags | CLONE_PIDFD | signal.SIGCHLD, 0, ctypes.byref(pidfd), 0, 0)
    except OSError:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        raise
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid, pidfd.value
