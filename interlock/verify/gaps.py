"""Why something is missing: an entry of the log says what was removed, in a part named `removed`.

That part is JSON: {"parts": [[leaf index, "name"], …]} for contents, {"entries": [[first, last], …]} for
whole entries, from one leaf index to another. It is committed to like any other, and never removed.
"""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from interlock.verify.entry import Leaf

REMOVED = "removed"
PRODUCER = "audit"
"""The log itself: nobody else's entries explain anything."""
ENTRY = ""
"""In the place of a content's name: the entry itself. No content is called so."""
_TYPES = frozenset({"ERASURE", "RETENTION"})
_MAX_ENTRIES = 100_000


class Gap(NamedTuple):
    """What is not there: the index of an entry, and the name of a content of it, or ENTRY."""

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
    parts: list[Gap] = []
    entries: list[list[int]] = []
    for gap in sorted(gaps):
        if gap.part != ENTRY:
            parts.append(gap)
        elif entries and entries[-1][1] == gap.leaf_index - 1:
            entries[-1][1] = gap.leaf_index
        else:
            entries.append([gap.leaf_index, gap.leaf_index])
    listed = {"parts": parts, "entries": entries}
    return json.dumps({name: each for name, each in listed.items() if each}, separators=(",", ":")).encode()


def read_gaps(body: bytes) -> frozenset[Gap]:
    """What a part `removed` lists; raises GapError."""
    try:
        read = json.loads(body)
        gaps = [Gap(leaf_index, part) for leaf_index, part in read.get("parts", ())]
        runs = [(first, last) for first, last in read.get("entries", ())]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise GapError(f"the list of what was removed cannot be read: {error}") from None
    if not all(type(gap.leaf_index) is int and isinstance(gap.part, str) and gap.part for gap in gaps):
        raise GapError("the list of what was removed names something else than contents")
    return frozenset((*gaps, *_entries(runs)))


def _entries(runs: Iterable[tuple[int, int]]) -> Iterator[Gap]:
    count = 0
    for first, last in runs:
        if not (type(first) is int and type(last) is int and 0 <= first <= last):
            raise GapError("the list of what was removed names something else than entries")
        count += last - first + 1
        if count > _MAX_ENTRIES:
            raise GapError(f"the list of what was removed names more than {_MAX_ENTRIES} entries")
        yield from (Gap(index, ENTRY) for index in range(first, last + 1))
