"""The suite that the demo runs on: the one that runs already, or one for as long as the demo takes."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlock_suite.children import python_environment
from interlock_suite.command import Identity, launched
from interlock_suite.control import ask
from interlock_suite.errors import SuiteError
from interlock_suite.folder import DataFolder

_POLL_SECONDS = 0.05
_READY_SECONDS = 120.0
_STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A suite that answers."""

    addresses: dict[str, str]
    started: float | None
    """Seconds that its start took; None when it ran already."""


@asynccontextmanager
async def companion(data_dir: Path, *, port_base: int | None) -> AsyncIterator[Companion]:
    """A suite that answers; one that is started here is stopped in order at the end."""
    folder = DataFolder(data_dir)
    running = _status(folder)
    if running is not None:
        yield Companion(addresses=dict(running["addresses"]), started=None)
        return
    began = time.monotonic()
    process = await _start(data_dir, port_base)
    # Read all along: a full pipe would halt it.
    complaints = asyncio.create_task(_read(process))
    try:
        addresses = await _ready(folder, process, complaints)
        yield Companion(addresses=addresses, started=time.monotonic() - began)
    finally:
        await _stop(process)
        await complaints


async def _start(data_dir: Path, port_base: int | None) -> asyncio.subprocess.Process:
    ports = ("--port-base", str(port_base)) if port_base is not None else ()
    argv = (sys.executable, "-m", "interlock_suite", "up", "--data-dir", str(data_dir), *ports)
    return await asyncio.create_subprocess_exec(
        # It goes in order when the demo is killed.
        *launched(argv, identity=Identity.SELF, death_signal=signal.SIGTERM),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **python_environment()},
        # Ctrl-C is for the demo, which then stops it.
        start_new_session=True,
    )


async def _ready(
    folder: DataFolder, process: asyncio.subprocess.Process, complaints: "asyncio.Task[str]"
) -> dict[str, str]:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.returncode is not None:
            raise SuiteError("The suite did not start.", (await complaints).strip())
        status = _status(folder)
        if status is not None:
            return dict(status["addresses"])
        await asyncio.sleep(_POLL_SECONDS)
    raise SuiteError(
        f"The suite was not ready after {_READY_SECONDS:.0f} s.", f"Its logs are in {folder.logs}."
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _read(process: asyncio.subprocess.Process) -> str:
    return (await process.stderr.read()).decode(errors="replace") if process.stderr is not None else ""


def _status(folder: DataFolder) -> dict[str, Any] | None:
    """What the suite on that folder says of itself, once it is ready."""
    with contextlib.suppress(SuiteError, OSError, json.JSONDecodeError):
        status = ask(folder.control, {"op": "status"})
        return status if status.get("ready") and folder.context.exists() else None
    return None
