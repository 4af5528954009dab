"""The file system a sandbox sees: Python, five harmless devices, a scratch folder, and nothing else."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH102, PTH103, PTH114, PTH115, PTH120, PTH123

import errno
import os

from interlock_sandbox.inside.runtime_files import RuntimeFiles
from interlock_sandbox.inside.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    add_mount_attributes,
    mount,
    pivot_root,
    unmount_lazily,
)

DEVICES = ("null", "zero", "full", "random", "urandom")
SCRATCH = "/tmp"  # noqa: S108  the sandbox's own folder, not the host's
SCRATCH_FILES = 1024
PACKAGES = "/packages"
_USERS = "tool:x:1000:1000::/tmp:/none\n"
_GROUPS = "tool:x:1000:\n"
_MOST_LINKS = 40  # as the kernel
_TIGHT = MS_NOSUID | MS_NODEV | MS_NOEXEC


def build_root(runtime: RuntimeFiles) -> None:
    """Replace the root of this process's own mount namespace by a read-only one; the host's tree is gone.

    Two pivots: the first puts an empty root over the host's, which then appears whole under /old, so that any
    path of it can be a source, even one under the folder that the empty root was mounted on.
    """
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", _TIGHT, "size=64k,mode=755")  # noqa: S108  only a mount point
    os.mkdir("/tmp/old")  # noqa: S108
    pivot_root("/tmp", "/tmp/old")  # noqa: S108
    os.chdir("/")
    os.mkdir("/new")
    mount("tmpfs", "/new", "tmpfs", MS_NOSUID, "size=1m,nr_inodes=2048,mode=755")
    _show_runtime(runtime)
    _show_devices()
    _write_identity()
    os.mkdir("/new/tmp")
    os.mkdir("/new/proc")
    mount("proc", "/new/proc", "proc", _TIGHT)
    add_mount_attributes("/new", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
    os.chdir("/new")
    pivot_root(".", ".")
    unmount_lazily(".")
    os.chdir("/")


def _show_runtime(runtime: RuntimeFiles) -> None:
    for folder in runtime.folders:
        _show_folder(folder, folder)
    for folder in runtime.masked:
        mount("tmpfs", "/new" + folder, "tmpfs", _TIGHT | MS_RDONLY, "size=4k,mode=555")
    if runtime.packages:
        _show_folder(runtime.packages, PACKAGES)
    for library in runtime.libraries:
        _show_file(library, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)


def _show_folder(source: str, target: str) -> None:
    os.makedirs("/new" + target, mode=0o755, exist_ok=True)
    mount("/old" + _real(source), "/new" + target, None, MS_BIND | MS_REC)
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    add_mount_attributes("/new" + target, attributes, recursive=True)


def _show_devices() -> None:
    for name in DEVICES:
        _show_file(f"/dev/{name}", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)


def _show_file(path: str, attributes: int) -> None:
    target = "/new" + path
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    mount("/old" + _real(path), target, None, MS_BIND)
    add_mount_attributes(target, attributes)


def _real(path: str) -> str:
    """The host's path with symbolic links followed, as seen from the host's root at /old."""
    parts, resolved, hops = path.strip("/").split("/"), "", 0
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            resolved = os.path.dirname(resolved)
            continue
        candidate = f"{resolved}/{part}"
        if not os.path.islink("/old" + candidate):
            resolved = candidate
            continue
        hops += 1
        if hops > _MOST_LINKS:
            raise OSError(errno.ELOOP, f"too many symbolic links in {path}")
        link = os.readlink("/old" + candidate)
        resolved = "" if link.startswith("/") else resolved
        parts = link.strip("/").split("/") + parts
    return resolved


def _write_identity() -> None:
    os.makedirs("/new/etc", exist_ok=True)
    for name, text in (("passwd", _USERS), ("group", _GROUPS)):
        with open(f"/new/etc/{name}", "w") as file:
            file.write(text)


def mount_private_parts(*, disk_bytes: int) -> None:
    """In one sandbox: its own scratch folder, and a /proc of its own processes and nothing of the kernel."""
    size = max(4096, disk_bytes)
    flags = _TIGHT if disk_bytes else _TIGHT | MS_RDONLY
    mount("tmpfs", SCRATCH, "tmpfs", flags, f"size={size},nr_inodes={SCRATCH_FILES},mode=700")
    try:
        mount("proc", "/proc", "proc", _TIGHT, "subset=pid,hidepid=invisible")
    except OSError:
        # A host that masks parts of its own /proc lets nobody mount a new one: then there is none at all.
        mount("tmpfs", "/proc", "tmpfs", _TIGHT | MS_RDONLY, "size=4k,mode=555")
    os.chdir(SCRATCH)
