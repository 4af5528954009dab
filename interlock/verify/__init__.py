"""Verify Interlock's audit log without trusting it: no service, no database, only bytes and a key."""

from interlock.verify.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from interlock.verify.entry import Commitment, EntryError, Leaf, PartBytes, commit, matches, parse_leaf
from interlock.verify.export import (
    ExportReport,
    checkpoint_line,
    entry_line,
    header_line,
    removed_line,
    verify_export,
)
from interlock.verify.merkle import (
    EMPTY_ROOT,
    ProofError,
    leaf_hash,
    node_hash,
    verify_consistency,
    verify_inclusion,
)
from interlock.verify.note import NoteError, NoteKey, SignedNote, parse_note, signed_note
from interlock.verify.pins import Pin, PinError, PinStore
from interlock.verify.rotation import Rotation, RotationError, followed, read_rotation
from interlock.verify.trail import (
    Finding,
    Problem,
    Trail,
    TrailEntry,
    TrailReport,
    require_continuation,
    verify_trail,
)

__all__ = [  # noqa: RUF022 -- grouped by noun
    # Trees and proofs
    "EMPTY_ROOT",
    "ProofError",
    "leaf_hash",
    "node_hash",
    "verify_consistency",
    "verify_inclusion",
    # Signed notes and checkpoints
    "Checkpoint",
    "NoteError",
    "NoteKey",
    "SignedNote",
    "open_checkpoint",
    "parse_checkpoint",
    "parse_note",
    "signed_note",
    # Entries
    "Commitment",
    "EntryError",
    "Leaf",
    "PartBytes",
    "commit",
    "matches",
    "parse_leaf",
    # Exports
    "ExportReport",
    "checkpoint_line",
    "entry_line",
    "header_line",
    "removed_line",
    "verify_export",
    # Changes of key
    "Rotation",
    "RotationError",
    "followed",
    "read_rotation",
    # Trails and pins
    "Finding",
    "Pin",
    "PinError",
    "PinStore",
    "Problem",
    "Trail",
    "TrailEntry",
    "TrailReport",
    "require_continuation",
    "verify_trail",
]
