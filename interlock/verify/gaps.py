"""Why contents are missing: an entry of the log says which ones were removed, in a part named `removed`.

That part is JSON: {"parts": [[leaf index, "name"], …]}. It is committed to like any other, and never removed.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from interlock.verify.entry import Leaf

REMOVED = "removed"
PRODUCER = "audit"
"""The log itself: nobody else's entries explain anything."""
_TYPES = frozenset({"ERASURE", "RETENTION"})


class Gap(NamedTuple):
    """A content that is not there: the index of its entry, and its name."""

    leaf_index: int
    part: str


class GapError(ValueError):
    """A list of what was removed cannot be read."""


def explains(leaf: Leaf) -> bool:
    """Whether this entry says what was removed, in its part `removed`."""
    return (
        leaf.type in _TYPES
        and leaf.producer == PRODUCER
        and any(commitment.name == REMOVED for commitment in leaf.parts)
    )


def write_gaps(gaps: Iterable[Gap]) -> bytes:
    """The list as the part `removed` holds it."""
    listed = [list(gap) for gap in sorted(gaps)]
    return json.dumps({"parts": listed}, separators=(",", ":")).encode()


def read_gaps(body: bytes) -> frozenset[Gap]:
    """What a part `removed` lists; raises GapError."""
    try:
        read = json.loads(body)
        gaps = [Gap(leaf_index, part) for leaf_index, part in read["parts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise GapError(f"the list of what was removed cannot be read: {error}") from None
    if not all(type(gap.leaf_index) is int and isinstance(gap.part, str) for gap in gaps):
        raise GapError("the list of what was removed names something else than contents")
    return frozenset(gaps)
