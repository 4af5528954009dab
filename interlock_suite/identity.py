"""Under whose name the database servers run when the suite itself is root."""

import os
import signal
import stat
import subprocess
from functools import lru_cache
from pathlib import Path

from interlock_suite.command import Identity, environment, launched
from interlock_suite.errors import SuiteError
from interlock_suite.launcher import NOBODY_ID


@lru_cache
def choose_identity(program: str) -> Identity:
    """An ordinary user as it is; root as a mapped user where user namespaces work, else as nobody."""
    if os.geteuid() != 0:
        return Identity.SELF
    for identity in (Identity.MAPPED, Identity.NOBODY):
        if _runs(program, identity):
            return identity
    raise SuiteError(
        f"{program} refuses to run as root, and neither a user namespace nor the user nobody can run it.",
        "Start the suite as an ordinary user, or install it where every user may read it.",
    )


def give_to_nobody(path: Path) -> None:
    """Make nobody the owner of `path` and all below it; it must be reachable for them."""
    closed = next((parent for parent in path.absolute().parents if not _others_may_pass(parent)), None)
    if closed is not None:
        raise SuiteError(
            f"PostgreSQL must run as the user nobody here, who may not enter {closed}.",
            "Start the suite as an ordinary user, or give a --data-dir that every user may enter.",
        )
    os.chown(path, NOBODY_ID, NOBODY_ID)
    if path.is_dir():
        for below in path.rglob("*"):
            os.chown(below, NOBODY_ID, NOBODY_ID, follow_symlinks=False)


def _others_may_pass(folder: Path) -> bool:
    status = folder.stat()
    return bool(status.st_mode & stat.S_IXOTH) or status.st_uid == NOBODY_ID


def _runs(program: str, identity: Identity) -> bool:
    argv = launched((program, "--version"), identity=identity, death_signal=signal.SIGKILL)
    try:
        answer = subprocess.run(argv, env=environment({}), capture_output=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return False
    return answer.returncode == 0
