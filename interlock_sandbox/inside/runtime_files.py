"""Which files of the host a tool's Python needs: the standard library and the shared libraries it loads."""

# Plain descriptors and strings: pathlib would hide which system call is made.
# ruff: noqa: PTH112, PTH113, PTH118, PTH123, PTH208

import ctypes
import errno
import importlib
import json
import os
import sys
from dataclasses import dataclass

# These pull in graphical libraries or a terminal, or only serve Python's own tests.
_NOT_FOR_TOOLS = ("_test", "_tkinter", "_xx", "xx", "readline", "ossaudiodev", "_ctypes_test")
_ZONES = "/usr/share/zoneinfo"
_MASKED = ("site-packages", "dist-packages")
_MOST_EXTENSIONS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFiles:
    """What to show, read-only, under the same names inside."""

    folders: tuple[str, ...]
    libraries: tuple[str, ...]
    masked: tuple[str, ...]
    """Folders inside `folders` to hide: installed packages are not part of the standard library."""
    packages: str = ""
    """A folder with the packages of a profile, shown under a name of its own; empty without any."""
    modules: tuple[str, ...] = ()
    """Of these packages, to be loaded before any program comes."""


def find_runtime_files(packages: str = "", modules: tuple[str, ...] = ()) -> RuntimeFiles:
    """The runtime of this very interpreter, which must have been started without site packages."""
    if packages and not os.path.isdir(packages):
        raise FileNotFoundError(
            errno.ENOENT, f"the folder of the profile's packages is not there: {packages}"
        )
    folders = _outermost({path for path in sys.path if os.path.isdir(path)})
    masked = [os.path.join(folder, name) for folder in folders for name in _MASKED]
    shown = [*folders, *([packages] if packages else [])]
    libraries = [path for path in _libraries_of_extensions(packages) if not _is_within(path, shown)]
    zones = [_ZONES] if os.path.isdir(_ZONES) else []
    return RuntimeFiles(
        folders=(*folders, *zones),
        libraries=tuple(libraries),
        masked=tuple(path for path in masked if os.path.isdir(path)),
        packages=packages,
        modules=modules,
    )


def _outermost(folders: set[str]) -> list[str]:
    return sorted(f for f in folders if not any(f != other and _is_within(f, [other]) for other in folders))


def _is_within(path: str, folders: list[str]) -> bool:
    return any(path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _libraries_of_extensions(packages: str) -> list[str]:
    """Names of the shared libraries that the extension modules need, as the loader looks them up.

    A short-lived child loads every extension module to find out, so that the zygote stays small.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _import_all_extensions()
            _open_extensions_of(packages)
            os.write(writing, json.dumps(_loaded_libraries()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        names: list[str] = json.loads(pipe.read() or b"[]")
    os.waitpid(pid, 0)
    return names


def _import_all_extensions() -> None:
    folders = [path for path in sys.path if path.endswith("lib-dynload") and os.path.isdir(path)]
    for file in sorted(name for folder in folders for name in os.listdir(folder)):
        module = file.partition(".")[0]
        if file.endswith(".so") and not module.startswith(_NOT_FOR_TOOLS):
            try:
                importlib.import_module(module)
            except Exception:  # noqa: BLE001, S112  an extension that does not load here is one that tools cannot import either
                continue


def _open_extensions_of(packages: str) -> None:
    """Have the loader find what the extensions of a profile need, without importing them."""
    found = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(packages)
        for name in names
        if ".so" in name
    ]
    for path in sorted(found)[:_MOST_EXTENSIONS]:
        try:
            ctypes.CDLL(path)
        except OSError:
            continue


class _LoadedObject(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]


def _loaded_libraries() -> list[str]:
    found: list[str] = []
    callback_type = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(_LoadedObject), ctypes.c_size_t, ctypes.c_void_p
    )

    def note(entry: "ctypes._Pointer[_LoadedObject]", _size: int, _data: int) -> int:
        name = os.fsdecode(entry.contents.name or b"")
        if name.startswith("/") and os.path.isfile(name):
            found.append(name)
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(callback_type(note), None)
    return sorted(set(found))
