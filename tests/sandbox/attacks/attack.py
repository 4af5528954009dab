"""How a hostile program is written down.

Each is told where everything is and tries to get at it; `World` sees whether it did. It returns what it got
hold of, as `{"got": ...}`: anything but an empty value counts as a breach, which only adds to what the host
itself shows. The kinds are the ends that are acceptable.

Every program is written so that little harm is done where it is not held: it aims at the world's own folder,
listeners and victim, asks for what it does not use, and is bounded in what it takes. That is needed because
each is also run with what holds it taken away: one that gets nothing then proves nothing when it is held.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from interlock_sandbox import Layer, Limits, OutcomeKind
from interlock_sandbox.levels import STANDARD_LAYERS

MIB = 1024 * 1024


class Guard(StrEnum):
    """What holds a program besides the layers: the host's own doing."""

    PROCESS = "process"
    """A process of its own, for one call."""
    READING = "reading"
    """No frame is believed, none is read that is too long, and JSON is read strictly."""
    DEADLINE = "deadline"
    """A call ends when its time is up."""
    BOUNDS = "bounds"
    """Output beyond its limit is dropped, and a flood ends the call."""
    KILL = "kill"
    """Everything of a call is killed when it ends, however it ends."""


EVERY_LAYER: frozenset[Layer | Guard] = frozenset(STANDARD_LAYERS - {Layer.CAPABILITIES})
"""All but the giving up of root: what escapes can do no more than any user of the host."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One hostile program, the ends that are acceptable for it, and what it takes to see it succeed."""

    name: str
    source: str
    kinds: frozenset[OutcomeKind]
    limits: Limits
    held_by: frozenset[Layer | Guard]
    """With all of these off, it escapes."""
    sign: str
    """What a problem then found begins with."""


def attack(
    name: str,
    source: str,
    *kinds: OutcomeKind,
    held_by: Iterable[Layer | Guard] = EVERY_LAYER,
    sign: str = "it got",
    limits: Limits | None = None,
) -> Attack:
    """One program; what the prelude defines is at its hands. COMPLETED unless kinds are given."""
    return Attack(
        name=name,
        source=PRELUDE + textwrap.dedent(source),
        kinds=frozenset(kinds) or frozenset({OutcomeKind.COMPLETED}),
        limits=limits or Limits(),
        held_by=frozenset(held_by),
        sign=sign,
    )


PRELUDE = """
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

def reached(number, *arguments):
    # EPERM, ENOSYS: anything else means that the kernel looked at the arguments
    result, error = call(number, *arguments)
    return [] if result == -1 and error in (1, 38) else [[result, error]]
"""
