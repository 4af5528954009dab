"""One running suite for all tests that only use it, and the `interlock` command pointed at it."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Done, argv, document, environment, error_of, interlock
from tests.e2e.suite import RunningSuite

__all__ = ["Suite", "running_suite"]


class Suite(RunningSuite):
    """A suite, and the command that talks to it."""

    @property
    def data_dir(self) -> Path:
        """Its data folder."""
        return self.folder.root

    def cli(self, *arguments: str, stdin: str = "", **settings: str) -> Done:
        """Run the command to its end."""
        return interlock("--data-dir", str(self.data_dir), *arguments, stdin=stdin, **settings)

    def json(self, *arguments: str, stdin: str = "", **settings: str) -> Any:
        """What the command answers as JSON; it must succeed."""
        return document(self.cli(*arguments, "--output", "json", stdin=stdin, **settings))

    def error(self, *arguments: str, stdin: str = "", **settings: str) -> dict[str, Any]:
        """The error that the command answers as JSON; it must fail."""
        return error_of(self.cli(*arguments, "--output", "json", stdin=stdin, **settings))

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start the command and leave it running."""
        return subprocess.Popen(
            argv("--data-dir", str(self.data_dir), *arguments),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def running_suite() -> Iterator[Suite]:
    """A suite on a folder of its own; tests share it, so each keeps to names and tasks of its own."""
    # Not pytest's own temporary folder: a unix socket's path may hold 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    suite = Suite(folder / "a")
    try:
        suite.start()
        yield suite
    finally:
        # At once: how one ends in order has tests of its own.
        suite.close()
        shutil.rmtree(folder, ignore_errors=True)
