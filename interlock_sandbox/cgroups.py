"""Control groups: bounds that count a whole tree, for a host that lets us make groups below our own.

Version 2 has one tree, version 1 one for each controller; both are used as they are found. Groups are made
and filled while a spare is made. What is called here blocks for some milliseconds, so it runs in a thread.
"""

# Plain strings: the kernel's files are read and written whole.
# ruff: noqa: PTH123

import contextlib
import errno
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from interlock_sandbox.limits import MIB, Limits

CONTROLLERS = ("memory", "pids", "cpu")
PROCESSORS = 1.0
"""How many one sandbox may keep busy, whatever the number of its threads."""
_PREFIX = "interlock-sandbox-"
_PERIOD_MICROS = 100_000
# What the kernel keeps for a process, and what the interpreter copies of the pages that it shares.
_OVERHEAD_BYTES = 48 * MIB
_UNIFIED = 2
_SERIAL = itertools.count()
_GONE_SECONDS = 2.0


class CgroupsMissing(Exception):
    """No groups can be made here; the message says why."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Names:
    """The files of one version, by what they bound."""

    memory: str
    swap: str
    processes: str
    processors: str
    kills: str


_FILES = {
    1: _Names(
        memory="memory.limit_in_bytes",
        swap="memory.memsw.limit_in_bytes",
        processes="pids.max",
        processors="cpu.cfs_quota_us",
        kills="memory.oom_control",
    ),
    _UNIFIED: _Names(
        memory="memory.max",
        swap="memory.swap.max",
        processes="pids.max",
        processors="cpu.max",
        kills="memory.events",
    ),
}


class Cgroup:
    """The group of one sandbox at a time."""

    def __init__(self, folders: Mapping[str, Path], version: int) -> None:
        self.folders = folders
        self._version = version
        self._names = _FILES[version]
        self._bounds: tuple[int, ...] = ()
        self._kills = 0

    def bound(self, limits: Limits) -> None:
        """Set the bounds of a call; raises OSError."""
        bounds = (limits.memory_bytes + limits.disk_bytes + _OVERHEAD_BYTES, limits.processes)
        if bounds == self._bounds:
            return
        memory, processes = bounds
        self._write("memory", self._names.memory, str(memory))
        self._write("pids", self._names.processes, str(processes))
        self._bounds = bounds

    def admit(self, pid: int) -> None:
        """Put a process into it, with whatever it starts from now on; raises OSError."""
        self._kills = self._count_kills()
        for folder in set(self.folders.values()):
            _write(folder / "cgroup.procs", str(pid))

    def holds(self, pid: int) -> bool:
        """Whether the kernel says that a process is in it."""
        return all(str(pid) in _read(folder / "cgroup.procs").split() for folder in self.folders.values())

    def was_exhausted(self) -> bool:
        """Whether the kernel killed something for its memory since it was last admitted to."""
        return self._count_kills() > self._kills

    def is_empty(self) -> bool:
        """Whether nothing is in it."""
        return not any(_read(folder / "cgroup.procs") for folder in set(self.folders.values()))

    def remove(self) -> None:
        """Remove it; what is in it stays, and so does the group."""
        for folder in set(self.folders.values()):
            _removed(folder)

    def set_standing_bounds(self, processors: float) -> None:
        """What holds for every call: no swap, and so many processors."""
        # Version 1 takes the sum of both, once memory has a bound; without swap there is no such file.
        with contextlib.suppress(OSError):
            unified = self._version == _UNIFIED
            swap = "0" if unified else _read(self.folders["memory"] / self._names.memory).strip()
            self._write("memory", self._names.swap, swap)
        quota = round(processors * _PERIOD_MICROS)
        said = f"{quota} {_PERIOD_MICROS}" if self._version == _UNIFIED else str(quota)
        self._write("cpu", self._names.processors, said)

    def _count_kills(self) -> int:
        try:
            told = _read(self.folders["memory"] / self._names.kills)
        except OSError:
            return 0
        counts = dict(line.split() for line in told.splitlines() if line)
        return int(counts.get("oom_kill", 0))

    def _write(self, controller: str, name: str, text: str) -> None:
        _write(self.folders[controller] / name, text)


class CgroupTree:
    """Our group of groups; belongs to one process."""

    def __init__(self, folders: Mapping[str, Path], version: int) -> None:
        self.folders = folders
        self._version = version
        self._numbers = itertools.count()
        # To make and to remove one costs the kernel more than all the rest, so they are used again.
        self._free: list[Cgroup] = []

    @classmethod
    def create(cls) -> "CgroupTree":
        """Make our group where this host lets us; raises CgroupsMissing."""
        version, own = _groups_to_build_in()
        # A folder of our own, by our number: what a killed process has left is swept by its number too.
        name = f"{_PREFIX}{os.getpid()}-{next(_SERIAL)}"
        tree = cls({each: folder / name for each, folder in own.items()}, version)
        try:
            for folder in set(own.values()):
                _sweep(folder)
            for folder in set(tree.folders.values()):
                folder.mkdir()
            if version == _UNIFIED:
                for folder in (own["memory"], tree.folders["memory"]):
                    _write(folder / "cgroup.subtree_control", " ".join(f"+{each}" for each in CONTROLLERS))
        except OSError as error:
            tree.close()
            raise CgroupsMissing(f"no group can be made: {error.strerror}", error.errno or 0) from None
        return tree

    def admit(self, pid: int, limits: Limits) -> Cgroup:
        """A group with this process in it and nothing else; raises OSError. Give it back in the end."""
        group = self._free.pop() if self._free else self._new()
        try:
            group.bound(limits)
            group.admit(pid)
        except OSError:
            group.remove()
            raise
        return group

    def give_back(self, group: Cgroup) -> None:
        """What was in it is gone; what does not leave it for whatever reason keeps it."""
        deadline = time.monotonic() + _GONE_SECONDS
        try:
            while not group.is_empty():
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
        except OSError:
            return  # the tree was closed
        self._free.append(group)

    def _new(self) -> Cgroup:
        name = str(next(self._numbers))
        folders = {each: folder / name for each, folder in self.folders.items()}
        group = Cgroup(folders, self._version)
        try:
            for folder in set(folders.values()):
                folder.mkdir()
            group.bound(Limits())
            group.set_standing_bounds(PROCESSORS)
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Remove every group; the sandboxes are gone, or dying."""
        deadline = time.monotonic() + _GONE_SECONDS
        for folder in set(self.folders.values()):
            while not _removed_with_children(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


def _groups_to_build_in() -> tuple[int, dict[str, Path]]:
    """Version, and the folder in which to make groups by controller; raises CgroupsMissing.

    In version 1 that is the group that this process is in. In version 2 a group with processes cannot have
    groups with bounds below it: there it is the one above, if the service manager has handed it over to us.
    """
    groups = dict(_groups_of_this_process())
    mounts = list(_mounts())
    unified = _folder(mounts, "cgroup2", "", groups.get(""))
    if unified is not None and _has_controllers(unified):
        if not _is_delegated(unified.parent):
            raise CgroupsMissing("the group above ours is not handed over to us", errno.EPERM)
        return _UNIFIED, dict.fromkeys(CONTROLLERS, unified.parent)
    found = {each: _folder(mounts, "cgroup", each, groups.get(each)) for each in CONTROLLERS}
    missing = [each for each, folder in found.items() if folder is None]
    if missing:
        raise CgroupsMissing(f"no controller for {', '.join(missing)} is handed to us", errno.ENOENT)
    return 1, {each: folder for each, folder in found.items() if folder is not None}


def _has_controllers(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return set(CONTROLLERS) <= set(_read(folder / "cgroup.controllers").split())
    return False


def _is_delegated(folder: Path) -> bool:
    """Whether systemd has marked a group as ours to change."""
    for mark in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return True
    return False


def _groups_of_this_process() -> Iterator[tuple[str, str]]:
    """Controller (empty for version 2) and path of its group."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


@dataclass(frozen=True, slots=True)
class _Mount:
    kind: str
    root: str
    folder: str
    options: frozenset[str]


def _mounts() -> Iterator[_Mount]:
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), right.split(maxsplit=2)
        yield _Mount(kind, fields[3], fields[4], frozenset(options.split(",")))


def _folder(mounts: list[_Mount], kind: str, controller: str, path: str | None) -> Path | None:
    for mount in mounts:
        if path is None or mount.kind != kind or (controller and controller not in mount.options):
            continue
        inside = path.removeprefix(mount.root.rstrip("/"))
        return Path(mount.folder + inside) if inside.startswith("/") or not inside else None
    return None


def _sweep(folder: Path) -> None:
    """Remove what a process of ours that lives no more has left."""
    for left in folder.glob(f"{_PREFIX}*"):
        number = left.name.removeprefix(_PREFIX).partition("-")[0]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            _removed_with_children(left)


def _removed_with_children(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        for child in [each for each in folder.iterdir() if each.is_dir()]:
            _removed(child)
    return _removed(folder)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(path: Path) -> str:
    with open(path) as file:
        return file.read()


def _write(path: Path, text: str) -> None:
    # One write, unbuffered: the kernel takes or refuses a value as a whole.
    with open(path, "wb", buffering=0) as file:
        file.write(text.encode())
