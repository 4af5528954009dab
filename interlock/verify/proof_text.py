"""The proof of one entry as a text that needs nothing else: c2sp.org/tlog-proof."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from interlock.verify.checkpoint import Checkpoint, open_checkpoint
from interlock.verify.merkle import HASH_SIZE, ProofError, leaf_hash, verify_inclusion
from interlock.verify.note import NoteKey

_FIRST = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryProof:
    """Where a leaf stands, and what leads from it to the root of a signed checkpoint; `note` as signed."""

    index: int
    hashes: tuple[bytes, ...]
    note: str


def write_proof(index: int, hashes: Sequence[bytes], note: str) -> str:
    """The text, to be kept as `….tlog-proof`."""
    lines = [_FIRST, f"index {index}", *(base64.b64encode(each).decode() for each in hashes), "", note]
    return "\n".join(lines)


def read_proof(text: str) -> EntryProof:
    """Raises ProofError for anything that is not such a text."""
    head, blank, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    if lines and lines[0].startswith("extra "):
        del lines[0]
    if first != _FIRST or not blank or not lines or not (index := _INDEX.fullmatch(lines[0])):
        raise ProofError(f"this is no {_FIRST}")
    try:
        hashes = tuple(base64.b64decode(line, validate=True) for line in lines[1:])
    except binascii.Error:
        raise ProofError("a hash of the proof is not base64") from None
    if any(len(each) != HASH_SIZE for each in hashes):
        raise ProofError("a hash of the proof is not one of SHA-256")
    return EntryProof(index=int(index.group(1)), hashes=hashes, note=note)


def verify_entry_proof(text: str, leaf: bytes, *, key: NoteKey) -> Checkpoint:
    """The checkpoint whose tree holds `leaf` where the text says; raises ProofError, NoteError."""
    proof = read_proof(text)
    checkpoint = open_checkpoint(proof.note, key=key)
    verify_inclusion(
        leaf=leaf_hash(leaf),
        index=proof.index,
        size=checkpoint.size,
        proof=proof.hashes,
        root=checkpoint.root,
    )
    return checkpoint
