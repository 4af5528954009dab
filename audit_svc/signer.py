"""The keys that sign checkpoints: one after the other, the newest for all that comes."""

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.common.v1.permit_pb2 import PublicKey
from interlock.verify.note import NoteError, NoteKey, parse_note
from svc_kit.key_files import load_or_create_key, public_bytes, thumbprint

USE = "checkpoint"


class CheckpointSigner:
    """Ed25519 keys for all logs of the suite, numbered from 1.

    A log's origin is part of what is signed, so a checkpoint of one log never passes for one of another.
    Replicas share the folder of the keys; one that another has made is read when it is first asked for.
    """

    def __init__(self, keys: Sequence[Ed25519PrivateKey], folder: Path | None = None) -> None:
        self._keys = list(keys)
        self._folder = folder

    @classmethod
    def load_or_create(cls, folder: Path) -> "CheckpointSigner":
        """The first key is in `<folder>/checkpoint.pem`, made on first use with mode 0600."""
        signer = cls([load_or_create_key(folder / f"{USE}.pem")], folder)
        signer._load()
        return signer

    def make(self, number: int) -> bytes:
        """The public key of that number; its file is made now if there is none. Numbers have no gaps."""
        if self._folder is not None and number == len(self._keys) + 1:
            self._keys.append(load_or_create_key(self._path(self._folder, number)))
        return public_bytes(self._private(number).public_key())

    def key(self, origin: str, number: int) -> NoteKey:
        """That public key under the name of a log; raises FileNotFoundError without its file."""
        return NoteKey(name=origin, public_key=public_bytes(self._private(number).public_key()))

    def sign(self, text: bytes, number: int) -> bytes:
        """An Ed25519 signature; raises FileNotFoundError without the key's file."""
        return self._private(number).sign(text)

    def key_of(self, origin: str, note: str) -> NoteKey:
        """The one of the keys that a note names; raises NoteError when it names none of them."""
        named = {signature.key_hash for signature in parse_note(note).signatures}
        self._load()
        for number in range(len(self._keys), 0, -1):
            if (key := self.key(origin, number)).key_hash in named:
                return key
        raise NoteError(f"the note is signed by none of the {len(self._keys)} keys of {origin}")

    def public(self) -> list[PublicKey]:
        """All keys as they are published, in the order of their numbers."""
        self._load()
        return [
            PublicKey(key_id=thumbprint(key.public_key()), ed25519=public_bytes(key.public_key()), use=USE)
            for key in self._keys
        ]

    def _private(self, number: int) -> Ed25519PrivateKey:
        if number > len(self._keys):
            self._load()
        if number > len(self._keys):
            raise FileNotFoundError(f"the key of checkpoints number {number} is not among the keys")
        return self._keys[number - 1]

    def _load(self) -> None:
        """Keys that came since."""
        while self._folder is not None:
            path = self._path(self._folder, len(self._keys) + 1)
            if not path.exists():
                return
            self._keys.append(load_or_create_key(path))

    @staticmethod
    def _path(folder: Path, number: int) -> Path:
        return folder / (f"{USE}-{number}.pem" if number > 1 else f"{USE}.pem")
