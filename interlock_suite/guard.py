"""Ends what a suite left running; as a script it waits for the supervisor's end to do so.

usage: guard.py MARK POSTGRES_FOLDER < a pipe whose other end the supervisor alone holds

The kernel kills a child when its parent dies, but not the child's own children. The guard sees the pipe
close, however the supervisor died, and ends whatever bears the suite's mark. It shares the data folder's
lock: the next supervisor starts only when all is gone. It imports nothing of ours, so that it stays small.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator

MARK_VARIABLE = "INTERLOCK_SUITE_MARK"
# What PostgreSQL's immediate stop, begun by the kernel's death signal, may take before it is killed too.
_GRACE_SECONDS = 2.0
_LIMIT_SECONDS = 8.0


def marked(mark: str) -> Iterator[int]:
    """The processes whose mark begins so: a child bears it in its environment, as do all that it starts."""
    wanted = f"{MARK_VARIABLE}={mark}/".encode()
    for pid in _processes():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            if any(entry.startswith(wanted) for entry in file.read().split(b"\0")):
                yield pid


def backends(data: str) -> Iterator[int]:
    """The processes of the PostgreSQL on `data`; they overwrite their environment with their title."""
    for pid in _processes():
        with contextlib.suppress(OSError):
            program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))  # noqa: PTH115, PTH119
            if program == "postgres" and os.readlink(f"/proc/{pid}/cwd") == data:  # noqa: PTH115
                yield pid


def sweep(*, mark: str | None, data: str | None, grace: float = 0.0) -> bool:
    """Kill what bears `mark`, and after `grace` seconds the PostgreSQL on `data`; whether nothing is left."""
    start = time.monotonic()
    while time.monotonic() < start + _LIMIT_SECONDS:
        servers = set(backends(data)) if data is not None else set()
        others = set(marked(mark)) - servers if mark is not None else set()
        if not servers and not others:
            return True
        doomed = others if time.monotonic() < start + grace else others | servers
        for pid in doomed:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return False


def _processes() -> list[int]:
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]  # noqa: PTH208


def main(arguments: list[str]) -> int:
    """Wait for the end of the input, then sweep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Asked to go before the supervisor does, it would leave the suite unguarded.
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    mark, data = arguments
    return 0 if sweep(mark=mark, data=data, grace=_GRACE_SECONDS) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
