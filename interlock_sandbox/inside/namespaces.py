"""User namespaces and the ids in them."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH123

import os

from interlock_sandbox.inside.privileges import TOOL_ID
from interlock_sandbox.inside.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)

# High enough to belong to nobody, and the same for nobody else's containers; the second fits small id ranges.
_UNUSED_IDS = (1_900_000_123, 64_123)

PROCESS_NAMESPACES = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
ZYGOTE_NAMESPACES = PROCESS_NAMESPACES | CLONE_NEWNET | CLONE_NEWCGROUP


def sandbox_flags(*, network: bool) -> int:
    """Namespaces of one sandbox."""
    return CLONE_NEWUSER | PROCESS_NAMESPACES | (CLONE_NEWNET if network else 0)


def unused_host_id() -> int | None:
    """A user id for sandboxes that no account of the host has; None unless we are root and may choose one."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as file:
        ranges = [(int(start), int(count)) for start, _, count in (line.split() for line in file)]
    for candidate in _UNUSED_IDS:
        if any(start <= candidate < start + count for start, count in ranges):
            return candidate
    return None


def write_id_maps(proc: int, *, uid: int, gid: int) -> None:
    """Name this process's user and group in its new user namespace; `proc` is a /proc folder's descriptor."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{TOOL_ID} {uid} 1"),
        ("gid_map", f"{TOOL_ID} {gid} 1"),
    ):
        file = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def become(host_id: int) -> None:
    """Give up root for an id of the host's that nobody has."""
    os.setgroups([])
    os.setresgid(host_id, host_id, host_id)
    os.setresuid(host_id, host_id, host_id)
