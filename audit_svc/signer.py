"""The key that signs checkpoints."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.common.v1.permit_pb2 import PublicKey
from interlock.verify.note import NoteKey
from svc_kit.key_files import load_or_create_key, public_bytes, thumbprint

USE = "checkpoint"


class CheckpointSigner:
    """One Ed25519 key for all logs of the suite.

    A log's origin is part of what is signed, so a checkpoint of one log never passes for one of another.
    Replicas share the key.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self._public = public_bytes(private.public_key())

    @classmethod
    def load_or_create(cls, folder: Path) -> "CheckpointSigner":
        """The key in `<folder>/checkpoint.pem`, made on first use with mode 0600."""
        return cls(load_or_create_key(folder / f"{USE}.pem"))

    def key(self, origin: str) -> NoteKey:
        """The public key, under the name of a log."""
        return NoteKey(name=origin, public_key=self._public)

    def sign(self, text: bytes) -> bytes:
        """An Ed25519 signature."""
        return self._private.sign(text)

    def public(self) -> PublicKey:
        """The key as it is published."""
        key_id = thumbprint(self._private.public_key())
        return PublicKey(key_id=key_id, ed25519=self._public, use=USE)
