"""The block of loopback ports of one suite."""

import contextlib
import errno
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interlock_suite.errors import SuiteError

HOST = "127.0.0.1"
DEFAULT_BASE = 7460
_STEP = 10
_BLOCKS = 51
_FIRST_FIRST, _LAST_FIRST = 1024, 65_000
_LISTENING = "0A"
# Offsets from the base; the first is kept for the dashboard.
OFFSETS = {
    "dashboard": 0,
    "orchestrator": 1,
    "registry": 2,
    "gateway": 3,
    "audit": 4,
    "orchestrator-2": 5,
    "orchestrator-3": 6,
    "orchestrator-4": 7,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBlock:
    """The ports of one suite, claimed for as long as `claim` stays open."""

    base: int
    claim: socket.socket

    def address(self, process: str) -> str:
        """Where the public door of one process of a service stands."""
        return f"{HOST}:{self.base + OFFSETS[process]}"


def choose_ports(*, asked: int | None, remembered: int | None) -> PortBlock:
    """The block asked for, else the remembered, which must be free; else a free one."""
    fixed = asked if asked is not None else remembered
    if fixed is not None:
        return _claim_fixed(fixed)
    first = ports_from()
    bases = range(first, first + _BLOCKS * _STEP, _STEP)
    for base in bases:
        block = _claim(base)
        if block is not None:
            return block
    raise SuiteError(
        f"No block of free ports was found between {bases.start} and {bases.stop}.",
        "Name a free one with --port-base.",
    )


def ports_from(environ: Mapping[str, str] = os.environ) -> int:
    """Where the search for a free block begins."""
    said = environ.get("INTERLOCK_PORTS_FROM") or str(DEFAULT_BASE)
    if not said.isdecimal() or not _FIRST_FIRST <= int(said) <= _LAST_FIRST:
        raise SuiteError(
            f"INTERLOCK_PORTS_FROM is {said!r}, and not a port.",
            f"Give a number from {_FIRST_FIRST} to {_LAST_FIRST}.",
        )
    return int(said)


def _claim_fixed(base: int) -> PortBlock:
    highest = 65535 - max(OFFSETS.values())
    if not 1 <= base <= highest:
        raise SuiteError(f"--port-base {base} is not usable.", f"Give one from 1024 to {highest}.")
    block = _claim(base)
    if block is not None:
        return block
    port = next((base + offset for offset in OFFSETS.values() if not _is_free(base + offset)), None)
    if port is None:
        raise SuiteError(
            f"The ports from {base} on are kept by another suite that is starting or running.",
            "Stop it, or name others with --port-base.",
        )
    raise SuiteError(
        f"Port {port} is in use{_by_whom(port)}.", "Stop that program, or name other ports with --port-base."
    )


def _claim(base: int) -> PortBlock | None:
    # A name in the abstract namespace vanishes with its holder and keeps two starting suites apart.
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0interlock-ports-{base}")
    except OSError:
        claim.close()
        return None
    if all(_is_free(base + offset) for offset in OFFSETS.values()):
        return PortBlock(base=base, claim=claim)
    claim.close()
    return None


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of the last run that still linger do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EACCES:
                raise SuiteError(
                    f"Port {port} may not be used by this user.", "Give a --port-base of 1024 or more."
                ) from None
            return False
    return True


def _by_whom(port: int) -> str:
    inodes = _listening_inodes(port)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for link in (folder / "fd").iterdir():
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link))  # noqa: PTH115
                if found and found.group(1) in inodes:
                    return f" by process {folder.name} ({(folder / 'comm').read_text().strip()})"
    return " by a process of another user"


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(fields[9])
    return inodes
