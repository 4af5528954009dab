"""Rotation of the key that signs a log's checkpoints: a leaf in which the old key names its successor.

The leaf's attributes hold both keys in their text form, and the old key's signature over `rotation_text`.
Checkpoints of trees that hold the leaf are signed by the new key, all before it by the old one.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from interlock.verify.entry import Leaf
from interlock.verify.note import NoteError, NoteKey

TYPE = "KEY_ROTATION"
PRODUCER = "audit"
"""The log itself: nobody else's entries change its key."""
OLD_KEY, NEW_KEY, SIGNATURE = "old_key", "new_key", "signature"


class RotationError(ValueError):
    """An entry that should change the key was not signed by the key that it replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One change of a log's key, which the old key has signed."""

    old: NoteKey
    new: NoteKey


def rotation_text(old: NoteKey, new: NoteKey) -> bytes:
    """What the old key signs; both keys carry the name of the log."""
    return f"interlock-key-rotation/1\n{old}\n{new}\n".encode()


def read_rotation(leaf: Leaf) -> Rotation | None:
    """The change that a leaf tells of, None for any other leaf; raises RotationError when it proves nothing.

    What it is worth depends on the leaf: it must stand in the tree that the new key has signed.
    """
    if leaf.type != TYPE or leaf.producer != PRODUCER:
        return None
    attributes = leaf.fields.get("attributes")
    if not isinstance(attributes, dict):
        raise RotationError("the entry names no keys")
    try:
        old, new = NoteKey.parse(str(attributes.get(OLD_KEY))), NoteKey.parse(str(attributes.get(NEW_KEY)))
        signature = base64.b64decode(str(attributes.get(SIGNATURE)), validate=True)
        if not old.name == new.name == leaf.origin:
            raise RotationError("the keys are of another log")
        Ed25519PublicKey.from_public_bytes(old.public_key).verify(signature, rotation_text(old, new))
    except (NoteError, binascii.Error, InvalidSignature) as error:
        raise RotationError(f"the change of key is not signed by the old one: {error}") from None
    return Rotation(old=old, new=new)


def followed(key: NoteKey, rotations: Iterable[Rotation]) -> NoteKey:
    """The key that a trusted one leads to, by changes in the order of the log."""
    for rotation in rotations:
        if rotation.old == key:
            key = rotation.new
    return key
