"""Landlock: the kernel's own list of files that a process may touch, independent of mounts and of seccomp."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH112

import ctypes
import errno
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from interlock_sandbox.inside.syscalls import syscall

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = (1 << bit for bit in range(13, 16))

READ = READ_FILE | READ_DIR
DEVICE = READ_FILE | WRITE_FILE
SCRATCH = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
_FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

_NET_ALL = 0b11  # bind and connect TCP
_SCOPE_ALL = 0b11  # abstract unix sockets and signals to the outside
_CREATE_VERSION = 1
# The versions of Landlock that brought more: REFER, TRUNCATE and IOCTL_DEV; TCP; scopes.
_FILE_RIGHTS_ADDED = (2, 3, 5)
_NET_ADDED = 4
_SCOPES_ADDED = 6
_RULE_PATH_BENEATH = 1


def supported_version() -> int:
    """The kernel's Landlock ABI, 0 if it has none."""
    try:
        return syscall("landlock_create_ruleset", ctypes.c_void_p(None), 0, _CREATE_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


def _known_file_rights(version: int) -> int:
    bits = 13 + sum(version >= added for added in _FILE_RIGHTS_ADDED)
    return (1 << bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    """What may be touched, as the kernel takes it; made once for every sandbox."""

    attributes: bytes
    rules: tuple[tuple[str, int], ...]
    """Paths, each with the rights that the kernel knows for what is there."""


def prepare(allowed: Mapping[str, int]) -> Ruleset:
    """Deny every file not beneath one of the paths, and TCP and outside signals where known.

    Raises OSError on a kernel without Landlock.
    """
    version = supported_version()
    if version == 0:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no Landlock")
    rights = _known_file_rights(version)
    # A kernel takes the struct as long as it knows it, and refuses rights that it does not know.
    fields = [rights]
    if version >= _NET_ADDED:
        fields.append(_NET_ALL)
    if version >= _SCOPES_ADDED:
        fields.append(_SCOPE_ALL)
    return Ruleset(
        attributes=struct.pack(f"={len(fields)}Q", *fields),
        rules=tuple(
            (path, wanted & rights if os.path.isdir(path) else wanted & rights & _FILE_ONLY)
            for path, wanted in allowed.items()
        ),
    )


def restrict_to(prepared: Ruleset) -> None:
    """Hold this process to it for good; needs `no_new_privs`, and forbids mounts from here on.

    Paths that do not exist are left out.
    """
    attributes = ctypes.c_char_p(prepared.attributes)
    ruleset = syscall("landlock_create_ruleset", attributes, len(prepared.attributes), 0)
    try:
        for path, rights in prepared.rules:
            _allow(ruleset, path, rights)
        syscall("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("=Qi", rights, target)
        syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(target)
