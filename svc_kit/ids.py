"""Identifiers that sort by the time they were made."""

import os
import threading
import time
import uuid


class _Ticks:
    """60-bit ticks of 1/4096 millisecond since 1970, each above the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        milliseconds, rest = divmod(time.time_ns(), 1_000_000)
        tick = milliseconds << 12 | rest * 4096 // 1_000_000
        with self._lock:
            self._last = max(tick, self._last + 1)
            return self._last


_ticks = _Ticks()


def uuid7() -> uuid.UUID:
    """A UUIDv7 (RFC 9562) above every earlier one of this process.

    The twelve bits after the milliseconds hold the fraction of the millisecond. When ids are asked for faster
    than that tells apart, or the clock steps back, ticks count on from the last one instead of repeating it.
    """
    tick = _ticks.next()
    random_bits = int.from_bytes(os.urandom(8)) >> 2
    return uuid.UUID(int=(tick >> 12) << 80 | 0x7 << 76 | (tick & 0xFFF) << 64 | 0b10 << 62 | random_bits)
