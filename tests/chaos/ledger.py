"""The ledger of what tools really did: the kernel's own list of processes.

A tool can neither write a file nor open a socket, so one that must not run twice gives its process the name
that its arguments say, and runs long enough to be seen.
"""

import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

PREFIX = "il-"
_NAME_BYTES = 15
_LOOK_SECONDS = 0.1
_START_TIME = 19
# Longer than the ledger looks away, on a machine that is busy too.
SEEN_SECONDS = 0.4

TOOL = """
import ctypes, time
def run(mark):
    ctypes.CDLL(None).prctl(15, mark.encode(), 0, 0, 0)
    time.sleep(SECONDS)
    return mark
""".replace("SECONDS", str(SEEN_SECONDS))


def mark(number: int) -> str:
    """The name of the process that does the work `number`."""
    name = f"{PREFIX}{number:x}"
    assert len(name) <= _NAME_BYTES
    return name


def new_marks() -> int:
    """Where the marks of a run begin: another run on the same machine must not see them as its own."""
    return secrets.randbits(28) << 16


class Ledger:
    """Looks at all processes of the machine in a thread of its own, inside `with`."""

    def __init__(self) -> None:
        self._seen: dict[str, set[tuple[int, int]]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def runs(self, name: str) -> int:
        """How many processes of that name were seen."""
        return len(self._seen.get(name, ()))

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            for folder in Path("/proc").iterdir():
                if folder.name.isdigit():
                    # It may have ended since it was listed.
                    with suppress(OSError):
                        self._look(folder)

    def _look(self, folder: Path) -> None:
        name = (folder / "comm").read_text().rstrip("\n")
        if name.startswith(PREFIX):
            # A number is given again, but not with the same time of start.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            self._seen.setdefault(name, set()).add((int(folder.name), int(fields[_START_TIME])))
