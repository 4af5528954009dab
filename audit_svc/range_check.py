"""A log's rows in order: each by itself, and the tree that all of them make."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from audit_svc.event import RemovedEntry
from audit_svc.merkle import TILE_HEIGHT, TILE_WIDTH, Frontier, TileId, tile_root
from audit_svc.verification import Finding, Flaw, Promises, Row, agrees
from interlock.verify.merkle import leaf_hash

_NOTHING: Promises = {}


class Doubt(NamedTuple):
    """A place that has to be looked at closely; without a row nothing stands there."""

    place: int
    row: Row | None


class RangeCheck:
    """Goes over the rows of a log in order, from `begin`; remembers what the tree needs, and nothing else."""

    def __init__(self, origin: str, *, begin: int) -> None:
        self._origin = origin
        self._next = begin
        # Only from the first entry on, and while none is missing, the tree can be built again.
        self._whole = begin == 0
        # Of each tier the hashes that fill no tile yet: all of them together are the tree.
        self._open: list[list[bytes]] = [[]]

    def take(
        self,
        rows: Mapping[int, Row],
        stored: Mapping[str, Promises],
        removed: Mapping[int, RemovedEntry],
        *,
        end: int,
    ) -> list[Doubt]:
        """The places up to `end` at which something seems wrong.

        `rows` are all those between the last `end` and this one, by index; `stored` are their contents,
        by event. Of `removed` ones the hash is taken, which only the tree can show to be right.
        """
        doubts = []
        hashes = self._open[0]
        for index in range(self._next, end):
            row = rows.get(index)
            if row is None:
                if index in removed:
                    hashes.append(removed[index].leaf_hash)
                else:
                    self._whole = False
                doubts.append(Doubt(index, None))
                continue
            hashed = leaf_hash(row.leaf)
            hashes.append(hashed)
            contents = stored.get(row.columns[0], _NOTHING)
            if hashed != row.leaf_hash or not agrees(self._origin, row, contents):
                doubts.append(Doubt(index, row))
        self._next = end
        if not self._whole:
            hashes.clear()
        return doubts

    def full_tiles(self) -> Iterator[tuple[TileId, bytes]]:
        """The tiles that were filled since this was asked last, with what they have to hold."""
        tier = 0
        while self._whole and tier < len(self._open):
            hashes = self._open[tier]
            while len(hashes) >= TILE_WIDTH:
                full = hashes[:TILE_WIDTH]
                # So many stand before this one at its tier.
                number = (self._next >> (TILE_HEIGHT * (tier + 1))) - len(hashes) // TILE_WIDTH
                del hashes[:TILE_WIDTH]
                yield TileId(tier, number), b"".join(full)
                if tier + 1 == len(self._open):
                    self._open.append([])
                self._open[tier + 1].append(tile_root(full))
            tier += 1

    def root_finding(self, root: bytes) -> Finding | None:
        """Whether the entries lead to the root that was signed over as many; None where they do, or may."""
        if not self._whole or self._root() == root:
            return None
        message = f"the first {self._next} entries do not lead to the signed root"
        return Finding(index=self._next, flaw=Flaw.ROOT, message=message)

    @property
    def has_tree(self) -> bool:
        """Whether the tree could be built again from all entries before."""
        return self._whole

    def _root(self) -> bytes:
        """Each tier is a row of complete subtrees, and those of the tier above stand left of it."""
        subtrees = [each for tier in reversed(self._open) for each in Frontier().extended(tier).hashes]
        return Frontier(size=self._next, hashes=tuple(subtrees)).root()
