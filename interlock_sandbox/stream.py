"""Collecting what a tool writes to one of its streams."""

import asyncio
import os
from collections.abc import Callable

from interlock_sandbox.outcome import Captured

FLOOD_BYTES = 4 * 1024 * 1024
"""What a tool may write to a stream beyond its limit, dropped, before it is ended."""

_READ_BYTES = 65536
_READS_AT_ONCE = 16


class Stream:
    """One pipe, read up to its limit and beyond it only to notice a flood."""

    def __init__(self, descriptor: int, limit: int, on_flood: Callable[[], None]) -> None:
        self.descriptor = descriptor
        self._limit = limit
        self._on_flood = on_flood
        self._kept = bytearray()
        self._seen = 0

    def read_available(self) -> None:
        """Take what is there without waiting; not all of it if there is much, so that others get to run."""
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self.descriptor)
                return
            self._seen += len(data)
            self._kept += data[: max(0, self._limit - len(self._kept))]
            if self._seen > self._limit + FLOOD_BYTES:
                self._on_flood()
                return

    def captured(self) -> Captured:
        """What was kept so far."""
        return Captured(data=bytes(self._kept), truncated=self._seen > len(self._kept))
