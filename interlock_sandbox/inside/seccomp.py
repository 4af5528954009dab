"""The system-call filter: a list of calls that pass, some by their arguments; all others fail with EPERM.

The filter is classic BPF over `struct seccomp_data`: the call's number stands at 0, the architecture at 4,
argument n at 16 + 8n, its low half first on the little-endian machines we know. Only low halves are compared,
because the kernel itself reads these arguments as 32-bit values.
"""

import ctypes
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from interlock_sandbox.inside.syscall_numbers import Architecture
from interlock_sandbox.inside.syscalls import CLONE_THREAD, PR_SET_SECCOMP, prctl

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
_MODE_FILTER = 2
_WHOLE = 0xFFFFFFFF

_LOAD = 0x20  # accumulator = 32-bit word at k
_AND = 0x54
_JUMP_EQUAL = 0x15
_JUMP_GREATER = 0x25
_RETURN = 0x06

HIGHEST_KNOWN = 452
"""Calls numbered above were unknown when the list was made; with ENOSYS the C library falls back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition on an argument: masked, it must be one of the values."""

    argument: int
    mask: int = _WHOLE
    values: tuple[int, ...]


ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2
dup3 flock fsync fdatasync truncate ftruncate fallocate fadvise64 sendfile copy_file_range open
openat creat stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents
getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat
symlink symlinkat chmod fchmod fchmodat umask utime utimes utimensat futimesat statfs fstatfs getxattr
lgetxattr fgetxattr listxattr llistxattr flistxattr poll ppoll select pselect6 epoll_create epoll_create1
epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2 timerfd_create timerfd_settime timerfd_gettime
pipe pipe2 sendto recvfrom sendmsg recvmsg shutdown getsockname getpeername mmap
munmap mremap mprotect brk madvise msync membarrier rseq set_robust_list get_robust_list set_tid_address
exit exit_group getpid gettid getppid getuid geteuid getgid getegid getgroups getresuid getresgid getpgid
getpgrp getsid getpriority getcpu uname sysinfo getrandom getrlimit setrlimit getrusage sched_yield
sched_getaffinity sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min wait4
waitid rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack
pause alarm setitimer getitimer restart_syscall clock_gettime clock_getres clock_nanosleep nanosleep
gettimeofday time times
""".split()  # noqa: SIM905  a list that is read as one

# clone makes threads only: no processes, no namespaces.
_NEW_NAMESPACES = 0x7E020000
_THREAD_ONLY = Check(argument=0, mask=CLONE_THREAD | _NEW_NAMESPACES, values=(CLONE_THREAD,))
# Datagram pairs could be sent to any address; stream and seqpacket pairs reach their other end only.
_UNIX = Check(argument=0, values=(1,))
_CONNECTED_KIND = Check(argument=1, mask=0xF, values=(1, 5))
_TERMINAL_SIZE_AND_FLAGS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_THREAD_NAME = (15, 16)
# Waiting, waking and requeueing; the priority-inheriting operations have been a way into kernels before.
_PLAIN_FUTEX = (0, 1, 3, 4, 5, 9, 10)
# Duplicates, flags, locks and a pipe's size. Not: being told of what others do in a folder, leases that hold
# up the host's writers, signals on behalf of a descriptor, and larger pipes, which are counted for a user.
_OWN_DESCRIPTORS = Check(argument=1, values=(0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032))
_OF_SOCKETS = Check(argument=1, values=(1,))
# Kind, error, buffers, listening, protocol, family. Not: who is at the other end, which is our host.
_OWN_SIDE = Check(argument=2, values=(3, 4, 7, 8, 30, 38, 39))

CHECKED = {
    "clone": (_THREAD_ONLY,),
    "socketpair": (_UNIX, _CONNECTED_KIND),
    "ioctl": (Check(argument=1, values=_TERMINAL_SIZE_AND_FLAGS),),
    "prctl": (Check(argument=0, values=_THREAD_NAME),),
    "futex": (Check(argument=1, mask=0x7F, values=_PLAIN_FUTEX),),
    "prlimit64": (Check(argument=0, values=(0,)),),
    "fcntl": (_OWN_DESCRIPTORS,),
    "getsockopt": (_OF_SOCKETS, _OWN_SIDE),
}
# A filter cannot look into clone3's struct; with ENOSYS the C library uses clone instead. So the others.
ABSENT = ("clone3", "fchmodat2", "openat2", "futex_waitv")
# Signals reach only the sandbox's own processes when it has a process namespace of its own.
SIGNALS = ("kill", "tkill", "tgkill")


def build_filter(architecture: Architecture, *, own_process_namespace: bool) -> bytes:
    """The filter's instructions for one architecture."""
    program = [
        _instruction(_LOAD, 4),
        _instruction(_JUMP_EQUAL, architecture.audit_arch, on_true=1),
        _instruction(_RETURN, KILL_PROCESS),
        _instruction(_LOAD, 0),
    ]
    return b"".join([*program, *_tree(_runs(architecture, own_process_namespace=own_process_namespace))])


@dataclass(frozen=True, slots=True)
class _Run:
    """Calls with consecutive numbers, from `first` on, that get the same answer; `body` returns it."""

    first: int
    body: tuple[bytes, ...]


def _runs(architecture: Architecture, *, own_process_namespace: bool) -> list[_Run]:
    absent = (_instruction(_RETURN, ERRNO | errno.ENOSYS),)
    allowed = (_instruction(_RETURN, ALLOW),)
    answers: dict[str, tuple[bytes, ...]] = dict.fromkeys(ALLOWED, allowed)
    if own_process_namespace:
        answers |= dict.fromkeys(SIGNALS, allowed)
    answers |= {name: tuple(_checked(checks)) for name, checks in CHECKED.items()}
    answers |= dict.fromkeys(ABSENT, absent)
    bodies = {architecture.number(name): body for name, body in answers.items()}
    refused = (_instruction(_RETURN, ERRNO | errno.EPERM),)
    runs: list[_Run] = []
    for number in range(HIGHEST_KNOWN + 1):
        body = bodies.get(number, refused)
        if not runs or runs[-1].body != body:
            runs.append(_Run(number, body))
    # The x32 calls carry bit 30, so they are numbered above all others and end here too.
    return [*runs, _Run(HIGHEST_KNOWN + 1, absent)]


def _tree(runs: Sequence[_Run]) -> list[bytes]:
    """A search by halves.

    The kernel asks a new filter about every call there is, for each sandbox: going through a list cost it
    more than all the rest of the installation.
    """
    if len(runs) == 1:
        return list(runs[0].body)
    middle = len(runs) // 2
    below, above = _tree(runs[:middle]), _tree(runs[middle:])
    return [_instruction(_JUMP_GREATER, runs[middle].first - 1, on_true=len(below)), *below, *above]


def _instruction(code: int, k: int, *, on_true: int = 0, on_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, on_true, on_false, k)


def _checked(checks: Sequence[Check]) -> list[bytes]:
    body: list[bytes] = []
    for check in checks:
        body.append(_instruction(_LOAD, 16 + 8 * check.argument))
        if check.mask != _WHOLE:
            body.append(_instruction(_AND, check.mask))
        for index, value in enumerate(check.values):
            # A match jumps over the remaining comparisons and the refusal.
            body.append(_instruction(_JUMP_EQUAL, value, on_true=len(check.values) - index))
        body.append(_instruction(_RETURN, ERRNO | errno.EPERM))
    return [*body, _instruction(_RETURN, ALLOW)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def install(instructions: bytes) -> None:
    """Apply the filter to this process for good; needs `no_new_privs`."""
    program = _Program(length=len(instructions) // 8, instructions=instructions)
    prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program))
