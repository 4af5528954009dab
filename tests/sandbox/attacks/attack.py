"""How a hostile program is written down.

Each is told where everything is and tries to get at it; `World` sees whether it did. It returns what it got
hold of, as `{"got": ...}`: anything but an empty value counts as a breach, which only adds to what the host
itself shows. The kinds are the ends that are acceptable.

Every program is written so that little harm is done where it is not held: it aims at the world's own folder,
listeners and victim, asks for what it does not use, and is bounded in what it takes.
"""

import textwrap
from dataclasses import dataclass

from interlock_sandbox import Limits, OutcomeKind

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One hostile program and the ends that are acceptable for it."""

    name: str
    source: str
    kinds: frozenset[OutcomeKind]
    limits: Limits


def attack(name: str, source: str, *kinds: OutcomeKind, limits: Limits | None = None) -> Attack:
    """One program; `tried` and `call` of the prelude are at its hands. COMPLETED unless kinds are given."""
    return Attack(
        name=name,
        source=_PRELUDE + textwrap.dedent(source),
        kinds=frozenset(kinds) or frozenset({OutcomeKind.COMPLETED}),
        limits=limits or Limits(),
    )


_PRELUDE = """
import ctypes, os

def tried(*actions):
    got = []
    for action in actions:
        try:
            value = action()
        except (OSError, ValueError, AttributeError, RuntimeError):
            continue
        got.append(value if isinstance(value, (str, int, list, dict)) else repr(value))
    return got

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *arguments):
    ctypes.set_errno(0)
    longs = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result = libc.syscall(ctypes.c_long(number), *longs)
    return result, ctypes.get_errno()
"""
