"""Becomes another program that dies with its parent; run as a script, it imports nothing of ours.

usage: launcher.py PARENT_PID DEATH_SIGNAL IDENTITY PROGRAM [ARGUMENT…]

IDENTITY is `self`, `mapped` (a user namespace in which root appears as an ordinary user: PostgreSQL refuses
to run as root) or `nobody` (really another user). A script of its own instead of a `preexec_fn`: code
between fork and exec can hang in a process that has threads.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
MAPPED_ID = 1000
NOBODY_ID = 65534


def main(arguments: list[str]) -> None:
    """Take the identity, tie the life to the parent's, become the program."""
    parent, death_signal, identity, program = (
        int(arguments[0]),
        int(arguments[1]),
        arguments[2],
        arguments[3:],
    )
    libc = ctypes.CDLL(None, use_errno=True)
    if identity == "mapped":
        _enter_user_namespace(libc)
    elif identity == "nobody":
        os.setgroups([])
        os.setgid(NOBODY_ID)
        os.setuid(NOBODY_ID)
    # After the change of identity, because that clears the death signal.
    _check(libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0))
    if os.getppid() != parent:
        sys.exit("The parent is gone already.")
    try:
        os.execvp(program[0], program)  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        sys.exit(f"{program[0]} cannot be started: {error.strerror}")


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    user, group = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWUSER))
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{MAPPED_ID} {user} 1")
    _write("/proc/self/gid_map", f"{MAPPED_ID} {group} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib would double the start-up time
        file.write(text)


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


if __name__ == "__main__":
    main(sys.argv[1:])
