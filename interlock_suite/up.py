"""`interlock up`: runs a suite in the foreground until it is told to stop."""

import asyncio
import contextlib
import logging
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from interlock.cli.escaping import json_line
from interlock.cli.problems import CliError, error_text
from interlock_suite.errors import SuiteError
from interlock_suite.options import DEFAULT_DATA_DIR, Options
from interlock_suite.supervisor import Ready, Suite

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


async def up(
    options: Options, *, as_json: bool = False, say: Say | None = None, complain: Say | None = None
) -> int:
    """Start, tell how to go on, wait for Ctrl-C, SIGTERM or the control socket, stop; the exit code.

    A second signal ends everything at once. `say` and `complain` default to standard output and error; with
    `as_json` each is given one JSON object at a time.
    """
    say, complain = say or _to(sys.stdout), complain or _to(sys.stderr)
    suite = Suite(options)
    code = 0
    with _heeding_signals(suite), _events_in(suite):
        try:
            ready = await _started_unless_stopped(suite)
            if ready is not None:
                say(json_line(ready_json(ready)) if as_json else ready_text(ready))
                await suite.stop_requested.wait()
            say(json_line({"stopping": True}) if as_json else "Stopping.")
        except SuiteError as error:
            complain(error_text(CliError(error.what, error.fix), as_json=as_json))
            code = error.exit_code
        finally:
            await suite.stop()
    return code


def ready_json(ready: Ready) -> dict[str, Any]:
    """What a program sees when all runs."""
    return {
        "ready": True,
        "seconds": round(ready.seconds, 3),
        "suite_id": ready.suite_id,
        "data_dir": str(ready.folder.root),
        "addresses": dict(ready.addresses),
    }


def ready_text(ready: Ready) -> str:
    """What a person sees when all runs."""
    width = max(len(name) for name in ready.addresses)
    where = _where(ready.folder.root)
    doors = "\n".join(f"  {name:<{width}}  {address}" for name, address in sorted(ready.addresses.items()))
    return (
        f"Interlock is ready ({ready.seconds:.1f} s).\n\n"
        f"{doors}\n\n"
        f"Data   {ready.folder.root}\n"
        f"Token  interlock{where} token --role DEVELOPER\n"
        f"Next   interlock{where} demo            (in another terminal)\n"
        "Stop   Ctrl-C"
    )


def _where(root: Path) -> str:
    """The option that leads other commands to a suite that is not where they look by themselves."""
    return "" if root == DEFAULT_DATA_DIR.absolute() else f" --data-dir {shlex.quote(str(root))}"


async def _started_unless_stopped(suite: Suite) -> Ready | None:
    """None when the stop came before all was ready."""
    start = asyncio.create_task(suite.start())
    stop = asyncio.create_task(suite.stop_requested.wait())
    try:
        await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
        if start.done():
            return start.result()
        return None
    finally:
        for task in (start, stop):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, SuiteError):
                await task


@contextlib.contextmanager
def _heeding_signals(suite: Suite) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def heed() -> None:
        if suite.stop_requested.is_set():
            suite.kill()
        suite.stop_requested.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, heed)
    try:
        yield
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _events_in(suite: Suite) -> Iterator[None]:
    """Keep what happens to the processes in a log of its own; warnings also reach the terminal."""
    logger = logging.getLogger("interlock_suite")
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    file = logging.FileHandler(suite.folder.log("supervisor"), delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.setLevel(logging.INFO)
    for handler in (terminal, file):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (terminal, file):
            logger.removeHandler(handler)
            handler.close()


def _to(stream: TextIO) -> Say:
    def write(text: str) -> None:
        stream.write(text + "\n")
        stream.flush()

    return write
