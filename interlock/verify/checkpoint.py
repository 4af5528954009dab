"""C2SP tlog-checkpoint: what a log signs about its tree.

Three lines (origin, size in decimal, root in base64), then optional further lines; c2sp.org/tlog-checkpoint.
"""

import base64
import re
from dataclasses import dataclass

from interlock.verify.merkle import EMPTY_ROOT, MAX_TREE_SIZE
from interlock.verify.note import NoteError, NoteKey, decode_hash, parse_note

_LINES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The size and root of the log `origin`; `text` is exactly what its signature covers."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The note text, ending in a newline."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions]
        return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's note text (without signatures); raises NoteError when it is malformed."""
    if not text.endswith("\n"):
        raise NoteError("a checkpoint ends in a newline")
    lines = text[:-1].split("\n")
    if len(lines) < _LINES or not all(lines):
        raise NoteError("a checkpoint has three lines (origin, size, root) and no empty one")
    origin, size_text, root_text, *extensions = lines
    # One spelling only: no sign, no leading zero, no underscore, no foreign digits.
    if not re.fullmatch(r"0|[1-9][0-9]{0,18}", size_text):
        raise NoteError("a checkpoint's size is a plain decimal number below 2^63")
    size, root = int(size_text), decode_hash(root_text, "the checkpoint's root")
    if size > MAX_TREE_SIZE:
        raise NoteError("the checkpoint's size is beyond 2^63-1")
    if size == 0 and root != EMPTY_ROOT:
        raise NoteError("an empty tree has only one possible root")
    return Checkpoint(origin=origin, size=size, root=root, extensions=tuple(extensions))


def open_checkpoint(note: str, *, key: NoteKey) -> Checkpoint:
    """The checkpoint inside a signed note, once `key` is seen to have signed it.

    A log signs under its own name, so the key's name must be the checkpoint's origin.
    """
    parsed = parse_note(note)
    parsed.require_signature(key)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != key.name:
        raise NoteError(f"the checkpoint speaks of {checkpoint.origin!r} but its key of {key.name!r}")
    return checkpoint
