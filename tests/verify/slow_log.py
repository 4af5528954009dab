"""A log for tests, signed by a fixed key; its tree is written word for word as RFC 6962 §2.1 defines it."""

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.verify import EMPTY_ROOT, Checkpoint, NoteKey, leaf_hash, node_hash, signed_note


class LogKey:
    """A log's private key under its origin."""

    def __init__(self, origin: str, seed: int = 1) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = NoteKey(name=origin, public_key=self._private.public_key().public_bytes_raw())

    def note(self, text: str) -> str:
        return str(signed_note(text, key=self.key, signature=self._private.sign(text.encode())))

    def checkpoint(self, leaves: Sequence[bytes]) -> str:
        return self.note(Checkpoint(origin=self.key.name, size=len(leaves), root=root(leaves)).text)


def root(leaves: Sequence[bytes]) -> bytes:
    """MTH."""
    if len(leaves) < 2:
        return leaf_hash(leaves[0]) if leaves else EMPTY_ROOT
    k = split(len(leaves))
    return node_hash(root(leaves[:k]), root(leaves[k:]))


def inclusion(index: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    """PATH."""
    if len(leaves) == 1:
        return ()
    k = split(len(leaves))
    if index < k:
        return (*inclusion(index, leaves[:k]), root(leaves[k:]))
    return (*inclusion(index - k, leaves[k:]), root(leaves[:k]))


def consistency(old: int, leaves: Sequence[bytes], *, whole: bool = True) -> tuple[bytes, ...]:
    """PROOF, with SUBPROOF where `whole` is false."""
    if old == len(leaves):
        return () if whole else (root(leaves),)
    k = split(len(leaves))
    if old <= k:
        return (*consistency(old, leaves[:k], whole=whole), root(leaves[k:]))
    return (*consistency(old - k, leaves[k:], whole=False), root(leaves[:k]))


def split(size: int) -> int:
    k = 1
    while k * 2 < size:
        k *= 2
    return k
