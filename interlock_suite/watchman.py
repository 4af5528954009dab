"""Keeps the guard alive for as long as the supervisor lives."""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from interlock_suite import guard
from interlock_suite.command import environment
from interlock_suite.folder import DataFolder, FolderLock

_PAUSE_SECONDS = 0.5


class Watchman:
    """Starts the guard, and another one should it be killed."""

    def __init__(self, folder: DataFolder, lock: FolderLock) -> None:
        self._folder = folder
        self._lock = lock
        self._guard: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The guard's process id."""
        return None if self._guard is None else self._guard.pid

    def start(self) -> None:
        """Start the guard; from here on the end of this process is the end of the suite."""
        self._guard = self._spawn()
        self._keeper = asyncio.create_task(self._keep(self._guard), name="keep the guard")

    async def dismiss(self) -> None:
        """Let the guard end whatever is left, and itself."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._guard is not None:
            await asyncio.to_thread(_finish, self._guard)

    def _spawn(self) -> subprocess.Popen[bytes]:
        script = Path(guard.__file__)
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(script),
                self._folder.mark,
                str(self._folder.postgres.resolve()),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment({}),
            # The lock outlives this process with it, so that no successor starts before all is swept.
            pass_fds=(self._lock.descriptor,),
            start_new_session=True,
        )

    async def _keep(self, process: "subprocess.Popen[bytes]") -> None:
        while True:
            await _exit_of(process)
            await asyncio.sleep(_PAUSE_SECONDS)
            self._guard = process = self._spawn()


async def _exit_of(process: "subprocess.Popen[bytes]") -> None:
    exited = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, exited.set)
    try:
        await exited.wait()
        _close_pipe(process)
        process.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _finish(process: "subprocess.Popen[bytes]") -> None:
    _close_pipe(process)
    process.wait()


def _close_pipe(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
