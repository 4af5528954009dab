"""One supervised program: started, watched, started again when it dies, stopped in order."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from interlock_suite.command import Command
from interlock_suite.errors import SuiteError

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.025
_LOG_LINES = 12
_MAX_LOG_BYTES = 16 * 1024 * 1024


class State(StrEnum):
    """What a program is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """Dead; it is started again after a pause."""
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long things may take, in seconds."""

    start: float = 30.0
    stop: float = 10.0
    first_pause: float = 0.1
    """Before it is started again; doubles with each death up to `longest_pause`."""
    longest_pause: float = 10.0
    steady_after: float = 20.0
    """A run of this length makes the next pause the first one again."""


def _nothing() -> None:
    pass


def _none() -> bool:
    return False


class Process:
    """Keeps one program running."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Command],
        ready: Callable[[], Awaitable[bool]],
        *,
        mend: Callable[[], None] = _nothing,
        remedy: Callable[[], bool] = _none,
        patience: Patience | None = None,
    ) -> None:
        """`mend` clears away what a killed run left; it runs before each start, on a thread.

        `remedy` is asked once when a start fails: whether it changed something, so that another try may work.
        """
        self.name = name
        self.state = State.STOPPED
        self.restarts = 0
        self._command = command
        self._is_ready = ready
        self._mend = mend
        self._remedy = remedy
        self._patience = patience or Patience()
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._exited = asyncio.Event()
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._asked_to_restart = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Start it and return when it is ready; SuiteError with the end of its log when it does not."""
        self._stopping.clear()
        self._hurry.clear()
        await self._launch_with_remedy()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def restart(self) -> None:
        """Stop it in order and return when its successor is ready; SuiteError when that takes too long."""
        self._asked_to_restart = True
        self._hurry.set()
        await self._end()
        try:
            async with asyncio.timeout(self._patience.start):
                await self._ready.wait()
        except TimeoutError:
            raise SuiteError(
                f"{self.name} is not ready again yet; it is tried further.", f"See {self._command().log}."
            ) from None

    async def stop(self) -> None:
        """Stop it in order; killed when that takes too long."""
        self._stopping.set()
        self._hurry.set()
        self.state = State.STOPPING
        await self._end()
        if self._keeper is not None:
            await self._keeper
            self._keeper = None
        self.state = State.STOPPED

    def kill(self) -> None:
        """End it at once, and its process group with it."""
        self._stopping.set()
        self._hurry.set()
        self._signal_group(signal.SIGKILL)

    async def _launch_with_remedy(self) -> None:
        try:
            await self._launch()
        except SuiteError:
            if self._stopping.is_set() or not await asyncio.to_thread(self._remedy):
                raise
            await self._launch()

    async def _launch(self) -> None:
        self.state = State.STARTING
        await asyncio.to_thread(self._mend)
        command = self._command()
        _bound_log(command.log)
        # On the loop's own thread, which lasts as long as the supervisor: the child dies with the thread.
        self._child = command.spawn()
        self._pidfd = os.pidfd_open(self._child.pid)
        self._exited.clear()
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)
        if not await self._wait_until_ready():
            why = "it ended" if self._child is None else "it was not ready in time"
            await self._end()
            raise SuiteError(
                f"{self.name} did not start ({why}); the end of its log:\n{_tail(command.log)}\n",
                f"The whole log is {command.log}.",
            )
        self.state = State.READY
        self._ready.set()

    async def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + self._patience.start
        while time.monotonic() < deadline and not self._stopping.is_set() and not self._exited.is_set():
            if await self._is_ready() and not self._exited.is_set():
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._exited.wait()
        return False

    async def _keep(self) -> None:
        pause = self._patience.first_pause
        while True:
            started = time.monotonic()
            await self._exited.wait()
            if self._stopping.is_set():
                return
            if self._asked_to_restart or time.monotonic() - started > self._patience.steady_after:
                pause = self._patience.first_pause
            await self._start_again(pause)
            if self._stopping.is_set():
                return
            pause = min(pause * 2, self._patience.longest_pause)

    async def _start_again(self, pause: float) -> None:
        """Until it is ready or the suite stops; the pause grows with each failure."""
        while not self._stopping.is_set():
            self.state = State.WAITING
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            if self._stopping.is_set():
                return
            self.restarts += 1
            self._asked_to_restart = False
            self._hurry.clear()
            try:
                await self._launch_with_remedy()
            except (SuiteError, OSError) as error:
                pause = min(max(pause * 2, self._patience.first_pause), self._patience.longest_pause)
                log.warning("%s does not start again; next try in %.1f s. %s", self.name, pause, error)
            else:
                log.info("%s runs again (process %s).", self.name, self.pid)
                return

    async def _end(self) -> None:
        """Ask it to stop, wait, kill it; returns when it is gone."""
        if self._child is None:
            return
        command = self._command()
        self._signal(command.stop_signal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.stop):
                await self._exited.wait()
        if not self._exited.is_set():
            log.warning("%s did not stop in %.0f s and is killed.", self.name, self._patience.stop)
            self._signal_group(signal.SIGKILL)
            await self._exited.wait()

    def _reap(self) -> None:
        """Called when the child has ended: whatever it left in its group ends with it."""
        child = self._child
        if child is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        # Before it is reaped: until then its number, and so the group's, cannot be given to another.
        self._signal_group(signal.SIGKILL)
        code = child.wait()
        os.close(self._pidfd)
        self._child = None
        if not self._stopping.is_set() and not self._asked_to_restart and self._ready.is_set():
            log.warning(
                "%s ended by itself (process %d, code %d); it is started again.", self.name, child.pid, code
            )
        self._ready.clear()
        self._exited.set()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)


def _bound_log(path: Path) -> None:
    """Keep one older log beside the current one, so that logs cannot fill the disk over restarts."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _MAX_LOG_BYTES:
            path.replace(path.with_name(path.name + ".1"))


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (empty)"
