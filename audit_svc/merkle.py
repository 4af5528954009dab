"""Building the Merkle tree: the nodes that proofs need, and the tiles that they are kept in.

A *node* (level, number) is the root of the complete subtree over the leaves
[number << level, (number + 1) << level). Hashes are kept in *tiles* of 256: tile (tier, number) holds the
nodes of level 8 * tier that lie under node (8 * (tier + 1), number). This is the layout of C2SP tlog-tiles.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from interlock.verify.merkle import Frontier, bagged, node_hash, split_hashes

__all__ = ["Frontier", "split_hashes"]

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

    @property
    def first_leaf(self) -> int:
        """The index of the first leaf under it."""
        return self.number << (TILE_HEIGHT * (self.tier + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofPlan:
    """Which nodes make up a proof: each of its hashes is the bagged hash of one group of nodes."""

    groups: tuple[tuple[Node, ...], ...]

    def tiles(self) -> set[TileId]:
        """The tiles that hold what `resolve` will ask for."""
        return {tile_of(node) for group in self.groups for node in group}

    def resolve(self, tiles: "TileReader") -> tuple[bytes, ...]:
        """The proof's hashes, once its tiles were read."""
        return tuple(bagged([tiles.node(node) for node in group]) for group in self.groups)


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
