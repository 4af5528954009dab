"""Clears away what a killed run left, so that the next start finds a clean place."""

from pathlib import Path

from interlock_suite import guard
from interlock_suite.errors import SuiteError
from interlock_suite.folder import DataFolder


def mend_folder(folder: DataFolder) -> None:
    """Before anything of the suite is started: end leftovers, remove sockets, tokens and the old context."""
    if not guard.sweep(mark=folder.mark, data=str(folder.postgres.resolve())):
        raise SuiteError(
            "Processes of the last run cannot be ended.", "Look for them with ps, or restart the machine."
        )
    folder.context.unlink(missing_ok=True)
    for pattern in ("*.sock", "*.token"):
        for path in folder.run.glob(pattern):
            path.unlink(missing_ok=True)


def mend_postgres(data: Path, sockets: Path) -> None:
    """Before PostgreSQL is started: end backends that outlived their server, remove its lock files.

    The data folder's own lock is held here, so nobody else can be using it; PostgreSQL itself would refuse to
    start if an unrelated process happened to have got the old server's number.
    """
    if not guard.sweep(mark=None, data=str(data.resolve())):
        raise SuiteError("Backends of a killed PostgreSQL cannot be ended.", "Restart the machine.")
    (data / "postmaster.pid").unlink(missing_ok=True)
    for path in sockets.glob(".s.PGSQL.*"):
        path.unlink(missing_ok=True)


def mend_child(folder: DataFolder, name: str) -> None:
    """Before a child is started: end what its last run left, remove the signs that it ran."""
    if not guard.sweep(mark=f"{folder.mark}/{name}", data=None):
        raise SuiteError(f"Processes that {name} left cannot be ended.", "Look for them with ps.")
    for path in (folder.socket(name), folder.ready(name)):
        path.unlink(missing_ok=True)
