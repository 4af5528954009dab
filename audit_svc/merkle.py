"""Building the Merkle tree: the frontier that appends need, and the nodes that proofs need.

A *node* (level, number) is the root of the complete subtree over the leaves
[number << level, (number + 1) << level). Hashes are kept in *tiles* of 256: tile (tier, number) holds the
nodes of level 8 * tier that lie under node (8 * (tier + 1), number). This is the layout of C2SP tlog-tiles.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from interlock.verify.merkle import EMPTY_ROOT, HASH_SIZE, node_hash

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT


class Node(NamedTuple):
    """A complete subtree."""

    level: int
    number: int


class TileId(NamedTuple):
    """A tile; `tier` 0 holds leaf hashes."""

    tier: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """All that appending needs: the roots of a tree's complete subtrees, the largest (leftmost) first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hashes) != self.size.bit_count() or any(len(h) != HASH_SIZE for h in self.hashes):
            raise ValueError(f"{len(self.hashes)} hashes are no frontier of {self.size} leaves")

    def extended(self, leaf_hashes: Iterable[bytes]) -> "Frontier":
        """The frontier once these leaves stand at the end."""
        size, stack = self.size, list(self.hashes)
        for current in leaf_hashes:
            merged = current
            # Each trailing 1 bit of the size is a complete subtree that the new leaf completes further.
            carry = size
            while carry & 1:
                merged = node_hash(stack.pop(), merged)
                carry >>= 1
            stack.append(merged)
            size += 1
        return Frontier(size=size, hashes=tuple(stack))

    def root(self) -> bytes:
        """The RFC 6962 root."""
        if not self.hashes:
            return EMPTY_ROOT
        return _bag(self.hashes)

    def to_bytes(self) -> bytes:
        """The hashes one after the other; the size says how many."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "Frontier":
        """The inverse of `to_bytes`; raises ValueError when the bytes do not fit the size."""
        return cls(size=size, hashes=split_hashes(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofPlan:
    """Which nodes make up a proof: each of its hashes is the bagged hash of one group of nodes."""

    groups: tuple[tuple[Node, ...], ...]

    def tiles(self) -> set[TileId]:
        """The tiles that hold what `resolve` will ask for."""
        return {tile_of(node) for group in self.groups for node in group}

    def resolve(self, tiles: "TileReader") -> tuple[bytes, ...]:
        """The proof's hashes, once its tiles were read."""
        return tuple(_bag([tiles.node(node) for node in group]) for group in self.groups)


class TileReader:
    """Nodes computed from tiles in memory; each inner node of a tile is computed once.

    A tile at the right edge of the tree may be shorter than 256 hashes.
    """

    def __init__(self, tiles: Mapping[TileId, Sequence[bytes]]) -> None:
        self._tiles = tiles
        self._known: dict[Node, bytes] = {}

    def node(self, node: Node) -> bytes:
        """The hash of a complete subtree; raises LookupError when its tile was not read or is too short."""
        height = node.level % TILE_HEIGHT
        if height == 0:
            tile = tile_of(node)
            return self._tiles[tile][node.number % TILE_WIDTH]
        known = self._known.get(node)
        if known is None:
            left = Node(node.level - 1, node.number * 2)
            known = node_hash(self.node(left), self.node(Node(left.level, left.number + 1)))
            self._known[node] = known
        return known


def plan_inclusion(index: int, size: int) -> ProofPlan:
    """The proof that the leaf at `index` is in the tree of `size` leaves; nearest sibling first."""
    if not 0 <= index < size:
        raise ValueError(f"index {index} lies outside a tree of {size} leaves")
    groups = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            groups.append(_cover(middle, end))
            end = middle
        else:
            groups.append(_cover(begin, middle))
            begin = middle
    return ProofPlan(groups=tuple(reversed(groups)))


def plan_consistency(old_size: int, new_size: int) -> ProofPlan:
    """The proof that the tree of `new_size` leaves begins with the tree of `old_size` leaves."""
    if not 0 < old_size <= new_size:
        raise ValueError(f"no consistency proof leads from {old_size} to {new_size} leaves")
    groups = []
    begin, end = 0, new_size
    while end != old_size:
        middle = begin + _split(end - begin)
        if old_size <= middle:
            groups.append(_cover(middle, end))
            end = middle
        else:
            groups.append(_cover(begin, middle))
            begin = middle
    # The subtree at which both trees meet; where it is the whole old tree the verifier holds its root.
    if begin != 0:
        groups.append(_cover(begin, end))
    return ProofPlan(groups=tuple(reversed(groups)))


def tile_of(node: Node) -> TileId:
    """The tile from which a node is computed."""
    tier, height = divmod(node.level, TILE_HEIGHT)
    return TileId(tier, node.number >> (TILE_HEIGHT - height))


def tile_root(hashes: Sequence[bytes]) -> bytes:
    """The root of a full tile: one hash of the tile above."""
    if len(hashes) != TILE_WIDTH:
        raise ValueError(f"a full tile has {TILE_WIDTH} hashes, not {len(hashes)}")
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def split_hashes(data: bytes) -> tuple[bytes, ...]:
    """Hashes that were stored one after the other."""
    if len(data) % HASH_SIZE:
        raise ValueError(f"{len(data)} bytes are no whole number of hashes")
    return tuple(data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE))


def _bag(hashes: Sequence[bytes]) -> bytes:
    """Join complete subtrees, largest first, into the hash of the range that they cover."""
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def _cover(begin: int, end: int) -> tuple[Node, ...]:
    """The complete subtrees of the range, largest first; `begin` is a multiple of all their sizes."""
    nodes = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        nodes.append(Node(level, begin >> level))
        begin += 1 << level
    return tuple(nodes)


def _split(size: int) -> int:
    """The largest power of two below `size`: where RFC 6962 parts a tree."""
    return int(1 << ((size - 1).bit_length() - 1))
