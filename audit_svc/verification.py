"""Whether a row of a log says what its leaf says, and whether its contents are those promised there."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from pydantic_core import from_json, to_json

from interlock.verify.entry import (
    COMMITMENT,
    LEAF_VERSION,
    SALT_SIZE,
    Commitment,
    EntryError,
    commit,
    parse_leaf,
)
from interlock.verify.gaps import Gap
from interlock.verify.merkle import leaf_hash


class Flaw(StrEnum):
    """What is wrong; the names are those of the contract."""

    MISSING = "MISSING"
    """No entry stands at the index."""
    LEAF = "LEAF"
    """The leaf is not what was hashed, or is no leaf of this log."""
    COLUMNS = "COLUMNS"
    """A column by which entries are found says something else than the leaf."""
    PAYLOAD = "PAYLOAD"
    """A content is not what the leaf committed to, is gone, or was never promised."""
    TILE = "TILE"
    """The hashes that proofs are made of are not those of the entries."""
    TEXT = "TEXT"
    """Words by which contents are found are not theirs, or are left of one that is gone."""
    ROOT = "ROOT"
    """The entries do not lead to the root that was signed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, at the index of an entry, or at the first one of a tile."""

    index: int
    flaw: Flaw
    message: str


COLUMNS = (
    "event_id",
    "type",
    "producer",
    "producer_sequence",
    "actor",
    "agent",
    "agent_version",
    "task_id",
    "tool",
    "status",
    "trace_id",
    "span_id",
    "event_time",
    "recorded_time",
)
"""By which entries are found, in the order in which rows have them here."""


class Row(NamedTuple):
    """An entry as its row has it; `columns` are those of COLUMNS, written as leaves write them.

    Times have microseconds, as columns do, and no zone; without a task the id of the task is empty.
    """

    leaf_index: int
    leaf: bytes
    leaf_hash: bytes
    columns: tuple[Any, ...]

    @property
    def event_id(self) -> str:
        """The id in the column."""
        told: str = self.columns[0]
        return told


Promise: TypeAlias = Mapping[str, Any]
"""What a leaf says of a content, member by member."""
Promises: TypeAlias = Mapping[str, Promise]
"""By the names of the contents."""

_NEVER_MADE: Promise = {}


def promise_of(name: str, content_type: str, salt: bytes, body: bytes) -> Promise:
    """What a leaf has to say of a content as it is stored; nothing, where no leaf can have promised it."""
    if len(salt) != SALT_SIZE or not name or not content_type:
        return _NEVER_MADE
    # In the order of canonical JSON, in which `agrees` writes them.
    return {
        "alg": COMMITMENT,
        "ctype": content_type,
        "digest": commit(salt, body).hex(),
        "name": name,
        "size": len(body),
    }


def agrees(origin: str, row: Row, stored: Promises) -> bool:
    """Whether a row is in order, its hash apart; `stored` are its contents.

    False says no more than that `row_findings` has to look: this is the short way, which all but every row
    goes. What it accepts, `parse_leaf` accepts too. It is proven by writing the leaf anew, with the contents
    as they are stored in place of those promised: only one that was read wholly, in which no name stands
    twice, is the same byte for byte.
    """
    try:
        said = from_json(row.leaf, allow_inf_nan=False, cache_strings="keys")
        if _columns(said) != row.columns or said["log"] != origin or said["v"] != LEAF_VERSION:
            return False
        # Columns may be empty, these members may not.
        if not (said["type"] and said["producer"] and said.get("task", True)):
            return False
        left = dict(stored)
        if "parts" in said:
            said["parts"] = [left.pop(part["name"]) for part in said["parts"]]
        return not left and to_json(said) == row.leaf
    except (ValueError, TypeError, LookupError, AttributeError):
        # It is something else than a leaf: what it is, the long way tells.
        return False


def row_findings(origin: str, row: Row, stored: Promises, explained: AbstractSet[Gap]) -> Iterator[Finding]:
    """All that is wrong with a row, told one by one; `stored` are its contents.

    `explained` are contents of which the log itself says that they were removed.
    """

    def finding(flaw: Flaw, message: str) -> Finding:
        return Finding(index=row.leaf_index, flaw=flaw, message=message)

    if leaf_hash(row.leaf) != row.leaf_hash:
        yield finding(Flaw.LEAF, "the leaf does not have the hash that is stored beside it")
    try:
        leaf = parse_leaf(row.leaf)
    except EntryError as error:
        yield finding(Flaw.LEAF, str(error))
        return
    if leaf.origin != origin:
        yield finding(Flaw.LEAF, f"the leaf is of the log {leaf.origin}")
    said = zip(COLUMNS, row.columns, _columns(leaf.fields), strict=True)
    differing = [name for name, stored_value, value in said if stored_value != value]
    if differing:
        yield finding(Flaw.COLUMNS, f"other than in the leaf: {', '.join(differing)}")
    gone = {commitment.name for commitment in leaf.parts if (row.leaf_index, commitment.name) in explained}
    for message in _content_flaws(leaf.parts, stored, gone):
        yield finding(Flaw.PAYLOAD, message)


def _content_flaws(
    promised: tuple[Commitment, ...], stored: Promises, gone: AbstractSet[str]
) -> Iterator[str]:
    left = dict(stored)
    for commitment in promised:
        promise = left.pop(commitment.name, None)
        if promise is None:
            if commitment.name not in gone:
                yield f"the content {commitment.name} is gone, and no entry says why"
        elif (promise.get("size"), promise.get("ctype"), promise.get("digest")) != (
            commitment.size,
            commitment.content_type,
            commitment.digest.hex(),
        ):
            yield f"the content {commitment.name} is not what the leaf committed to"
    for name in left:
        yield f"the leaf promises no content {name}"


def _columns(said: Mapping[str, Any]) -> tuple[Any, ...]:
    """The columns as a leaf has them, in the order of COLUMNS."""
    get = said.get
    return (
        get("id"),
        get("type"),
        get("producer"),
        get("pseq", 0),
        get("actor", ""),
        get("agent", ""),
        get("agent_version", ""),
        get("task", ""),
        get("tool", ""),
        get("status", ""),
        get("trace", ""),
        get("span", ""),
        # Columns have microseconds, leaves nanoseconds.
        str(get("event_time", ""))[:26],
        str(get("recorded_at", ""))[:26],
    )
