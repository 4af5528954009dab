"""Whether this machine can run a suite, examined without starting or changing anything."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from interlock_sandbox import probe_now
from interlock_suite.binaries import find_postgres, find_valkey
from interlock_suite.errors import SuiteError
from interlock_suite.folder import MINIMUM_FREE_BYTES, DataFolder
from interlock_suite.identity import choose_identity
from interlock_suite.options import external_servers
from interlock_suite.ports import choose_ports
from interlock_suite.postgres import data_version
from interlock_suite.sandbox_check import judge

_OLDEST_PYTHON = (3, 11)

Finding = dict[str, str | bool]


def examine(data_dir: str | os.PathLike[str]) -> list[Finding]:
    """One finding per thing a suite needs: `name`, `ok`, `found`, and `fix` (empty when ok)."""
    folder = DataFolder(Path(data_dir))
    database_url, redis_url = external_servers()
    return [
        _examined("python", _python),
        _examined("sandbox", _sandbox),
        _examined("postgres", lambda: _postgres(folder, database_url)),
        _examined("valkey", lambda: "external" if redis_url else str(find_valkey())),
        _examined("data folder", lambda: _data_folder(folder)),
        _examined("disk", lambda: _disk(folder)),
        _examined("ports", lambda: _ports(folder)),
    ]


def _examined(name: str, look: Callable[[], str]) -> Finding:
    try:
        return {"name": name, "ok": True, "found": look(), "fix": ""}
    except SuiteError as error:
        return {"name": name, "ok": False, "found": error.what, "fix": error.fix}


def _python() -> str:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < _OLDEST_PYTHON or platform.system() != "Linux":
        raise SuiteError(f"Found {found}.", "The suite needs Linux and Python 3.11 or newer.")
    return found


def _sandbox() -> str:
    return f"isolation {judge(probe_now()).name}"


def _postgres(folder: DataFolder, external: str | None) -> str:
    if external:
        return "external"
    binaries = find_postgres(data_version(folder.postgres))
    identity = choose_identity(str(binaries.postgres))
    return f"{binaries.major} in {binaries.folder}, run as {identity.value}"


def _data_folder(folder: DataFolder) -> str:
    if not folder.root.exists():
        nearest = _nearest(folder.root)
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise SuiteError(f"{nearest} may not be written to.", "Choose a --data-dir of your own.")
        return f"{folder.root} (to be made)"
    if not os.access(folder.root, os.R_OK | os.W_OK | os.X_OK):
        raise SuiteError(
            f"{folder.root} may not be used by this user.", "Start as its owner, or with another --data-dir."
        )
    if folder.remembered():
        folder.recall()
    return str(folder.root)


def _disk(folder: DataFolder) -> str:
    free = shutil.disk_usage(_nearest(folder.root)).free
    if free < MINIMUM_FREE_BYTES:
        raise SuiteError(
            f"Only {free // 2**20} MiB are free.", f"Free at least {MINIMUM_FREE_BYTES // 2**20} MiB."
        )
    return f"{free // 2**20} MiB free"


def _ports(folder: DataFolder) -> str:
    if folder.context.exists():
        return "in use by the suite of this data folder"
    remembered = folder.recall().port_base if folder.remembered() else None
    block = choose_ports(asked=None, remembered=remembered)
    block.claim.close()
    return f"free from {block.base} on"


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
