"""RFC 6962 hashing and the proof checks of RFC 9162 §2.1.3.2 and §2.1.4.2.

Every function here takes what a stranger handed over, so a malformed proof is refused with the same
error as a wrong one: there is nothing to tell apart for someone who must not trust the sender.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HASH_SIZE = 32
MAX_TREE_SIZE = 2**63 - 1
EMPTY_ROOT = hashlib.sha256(b"").digest()

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


class ProofError(ValueError):
    """A Merkle proof does not show what it was given for."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf; its prefix keeps a leaf from passing for an inner node."""
    return hashlib.sha256(_LEAF_PREFIX + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its two children."""
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()


def verify_inclusion(*, leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that the leaf hash `leaf` stands at `index` (from 0) in the tree of `size` leaves with `root`.

    Raises ProofError otherwise.
    """
    _require_size(size)
    if not _is_count(index) or index >= size:
        raise ProofError(f"index {index!r} lies outside a tree of {size} leaves")
    _require_hashes([leaf, root, *proof])

    node, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofError("the inclusion proof is longer than the tree is high")
        if node & 1 or node == last:
            result = node_hash(sibling, result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("the inclusion proof is shorter than the tree is high")
    _require_equal(result, root, f"the inclusion proof of index {index} leads to another root")


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `new_size` leaves only appended to the tree of `old_size` leaves.

    Raises ProofError otherwise, and for an empty old tree: with it everything is consistent, so such a
    proof shows nothing.
    """
    _require_size(old_size)
    _require_size(new_size)
    if old_size > new_size:
        raise ProofError(f"the tree shrank from {old_size} to {new_size} leaves")
    if old_size == new_size:
        if proof:
            raise ProofError("a proof between equal sizes must be empty")
        _require_equal(old_root, new_root, f"two different roots for the same size {old_size}")
        return
    if not proof:
        raise ProofError("the consistency proof is empty")
    _require_hashes([old_root, new_root, *proof])

    # A power of two is a complete subtree whose root the verifier already holds.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    node, last = old_size - 1, new_size - 1
    # Both trees share the subtree that ends with the old tree's last leaf.
    while node & 1:
        node, last = node >> 1, last >> 1
    old_result, new_result = _climb(path, node, last)
    _require_equal(old_result, old_root, f"the consistency proof leads to another root of size {old_size}")
    _require_equal(new_result, new_root, f"the consistency proof leads to another root of size {new_size}")


def _climb(path: Sequence[bytes], node: int, last: int) -> tuple[bytes, bytes]:
    """The roots of the old and the new tree that a consistency path leads to, from its lowest node up."""
    old_result = new_result = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("the consistency proof is longer than the tree is high")
        if node & 1 or node == last:
            old_result = node_hash(sibling, old_result)
            new_result = node_hash(sibling, new_result)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new_result = node_hash(new_result, sibling)
        node, last = node >> 1, last >> 1
    if last != 0:
        raise ProofError("the consistency proof is shorter than the tree is high")
    return old_result, new_result


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TREE_SIZE


def _require_size(size: int) -> None:
    if not _is_count(size) or size == 0:
        raise ProofError(f"tree size {size!r} is not between 1 and 2^63-1")


def _require_hashes(hashes: Sequence[bytes]) -> None:
    for value in hashes:
        if len(value) != HASH_SIZE:
            raise ProofError(f"a hash of {len(value)} bytes where {HASH_SIZE} are needed")


def _require_equal(actual: bytes, expected: bytes, message: str) -> None:
    if not hmac.compare_digest(actual, expected):
        raise ProofError(message)


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
        return bagged(self.hashes)

    def to_bytes(self) -> bytes:
        """The hashes one after the other; the size says how many."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> "Frontier":
        """The inverse of `to_bytes`; raises ValueError when the bytes do not fit the size."""
        return cls(size=size, hashes=split_hashes(data))


def split_hashes(data: bytes) -> tuple[bytes, ...]:
    """Hashes that were stored one after the other."""
    if len(data) % HASH_SIZE:
        raise ValueError(f"{len(data)} bytes are no whole number of hashes")
    return tuple(data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE))


def bagged(hashes: Sequence[bytes]) -> bytes:
    """Join complete subtrees, largest first, into the hash of the range that they cover."""
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result
