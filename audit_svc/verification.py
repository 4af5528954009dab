"""Whether what is stored of a log is what was hashed into its tree: rows against leaves, in order."""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from audit_svc.merkle import TILE_WIDTH, Frontier, TileId, tile_root
from interlock.verify.entry import SALT_SIZE, Commitment, EntryError, Leaf, commit, parse_leaf
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An entry as its row has it."""

    index: int
    event_id: uuid.UUID
    columns: Mapping[str, Any]
    leaf: bytes = field(repr=False)
    leaf_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDigest:
    """A content as stored: what a leaf should have committed to."""

    name: str
    content_type: str
    size: int
    salted: bool
    digest: bytes


class RangeCheck:
    """Goes over the rows of a log in order, from `begin`; remembers what the tree needs, and nothing else."""

    def __init__(self, origin: str, *, begin: int) -> None:
        self._origin = origin
        self._next = begin
        # Only from the first entry on, and while none is missing, the tree can be built again.
        self._frontier: Frontier | None = Frontier() if begin == 0 else None
        self._open: list[list[bytes]] = []

    def take(
        self,
        rows: Sequence[Row],
        parts: Mapping[uuid.UUID, Sequence[PartDigest]],
        explained: AbstractSet[Gap],
        *,
        end: int,
    ) -> Iterator[Finding]:
        """What is wrong up to `end`; `rows` are all those between the last `end` and this one, in order.

        `explained` are contents of which the log itself says that they were removed.
        """
        found = {row.index: row for row in rows}
        if len(found) < len(rows):
            yield from _shared_places(rows)
        hashes = []
        for index in range(self._next, end):
            row = found.get(index)
            if row is None:
                self._frontier = None
                yield Finding(index=index, flaw=Flaw.MISSING, message="no entry stands here")
                continue
            hashes.append(leaf_hash(row.leaf))
            yield from _row_findings(self._origin, row, hashes[-1], parts.get(row.event_id, ()), explained)
        self._next = end
        if self._frontier is not None:
            self._frontier = self._frontier.extended(hashes)
            self._add(0, hashes)

    def full_tiles(self) -> Iterator[tuple[TileId, tuple[bytes, ...]]]:
        """The tiles that were filled since this was asked last, with what they have to hold."""
        if self._frontier is None:
            return
        tier = 0
        while tier < len(self._open):
            hashes = self._open[tier]
            while len(hashes) >= TILE_WIDTH:
                full = tuple(hashes[:TILE_WIDTH])
                del hashes[:TILE_WIDTH]
                # So many stand before this one at its tier.
                number = (self._frontier.size >> (8 * (tier + 1))) - len(hashes) // TILE_WIDTH - 1
                yield TileId(tier, number), full
                self._add(tier + 1, [tile_root(full)])
            tier += 1

    def root_finding(self, root: bytes) -> Finding | None:
        """Whether the entries lead to the root that was signed over as many; None where they do, or may."""
        if self._frontier is None or self._frontier.root() == root:
            return None
        message = f"the first {self._frontier.size} entries do not lead to the signed root"
        return Finding(index=self._frontier.size, flaw=Flaw.ROOT, message=message)

    @property
    def has_tree(self) -> bool:
        """Whether the tree could be built again from all entries before."""
        return self._frontier is not None

    def _add(self, tier: int, hashes: Sequence[bytes]) -> None:
        while len(self._open) <= tier:
            self._open.append([])
        self._open[tier] += hashes


def digest_part(name: str, content_type: str, salt: bytes, body: bytes) -> PartDigest:
    """What a leaf commits to of a content."""
    return PartDigest(
        name=name,
        content_type=content_type,
        size=len(body),
        salted=len(salt) == SALT_SIZE,
        digest=commit(salt, body),
    )


def _shared_places(rows: Sequence[Row]) -> Iterator[Finding]:
    """No index over all months keeps two entries apart that claim one place."""
    counted = Counter(row.index for row in rows)
    for index, count in counted.items():
        if count > 1:
            yield Finding(index=index, flaw=Flaw.LEAF, message=f"{count} entries claim this place")


def _row_findings(
    origin: str, row: Row, hashed: bytes, parts: Sequence[PartDigest], explained: AbstractSet[Gap]
) -> Iterator[Finding]:
    def finding(flaw: Flaw, message: str) -> Finding:
        return Finding(index=row.index, flaw=flaw, message=message)

    if hashed != row.leaf_hash:
        yield finding(Flaw.LEAF, "the leaf does not have the hash that is stored beside it")
    try:
        leaf = parse_leaf(row.leaf)
    except EntryError as error:
        yield finding(Flaw.LEAF, str(error))
        return
    if leaf.origin != origin:
        yield finding(Flaw.LEAF, f"the leaf is of the log {leaf.origin}")
    differing = [name for name, value in _columns(leaf).items() if row.columns[name] != value]
    if differing:
        yield finding(Flaw.COLUMNS, f"other than in the leaf: {', '.join(differing)}")
    gone = {commitment.name for commitment in leaf.parts if (row.index, commitment.name) in explained}
    yield from (finding(Flaw.PAYLOAD, message) for message in _part_flaws(leaf.parts, parts, gone))


def _part_flaws(
    promised: Sequence[Commitment], stored: Sequence[PartDigest], gone: AbstractSet[str]
) -> Iterator[str]:
    left = {part.name: part for part in stored}
    for commitment in promised:
        part = left.pop(commitment.name, None)
        if part is None:
            if commitment.name not in gone:
                yield f"the content {commitment.name} is gone, and no entry says why"
        elif not part.salted or (part.size, part.content_type, part.digest) != (
            commitment.size,
            commitment.content_type,
            commitment.digest,
        ):
            yield f"the content {commitment.name} is not what the leaf committed to"
    for name in left:
        yield f"the leaf promises no content {name}"


def _columns(leaf: Leaf) -> dict[str, Any]:
    """The columns as the leaf has them."""
    said = leaf.fields
    return {
        "event_id": leaf.event_id,
        "type": leaf.type,
        "producer": leaf.producer,
        "producer_sequence": said.get("pseq", 0),
        "actor": said.get("actor", ""),
        "agent": said.get("agent", ""),
        "agent_version": said.get("agent_version", ""),
        "task_id": leaf.task_id,
        "tool": said.get("tool", ""),
        "status": said.get("status", ""),
        "trace_id": said.get("trace", ""),
        "span_id": said.get("span", ""),
        # Columns have microseconds, leaves nanoseconds.
        "event_time": str(said.get("event_time", ""))[:26],
        "recorded_time": str(said.get("recorded_at", ""))[:26],
    }


def columns_of(row: Any) -> dict[str, Any]:
    """The columns of a row, a mapping by their names, in the form in which leaves have them."""
    told = {name: row[name] for name in _PLAIN}
    told["event_id"] = str(row["event_id"])
    told["task_id"] = str(row["task_id"]) if row["task_id"] is not None else ""
    for name in ("event_time", "recorded_time"):
        when: datetime = row[name]
        told[name] = when.astimezone(UTC).isoformat(timespec="microseconds")[:26]
    return told


_PLAIN = (
    "type",
    "producer",
    "producer_sequence",
    "actor",
    "agent",
    "agent_version",
    "tool",
    "status",
    "trace_id",
    "span_id",
)
