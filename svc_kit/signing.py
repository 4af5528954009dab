"""Signatures over small protobuf messages: one Ed25519 key per use, and the use is part of what is signed."""

from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from interlock.common.v1.errors_pb2 import ErrorReason
from interlock.common.v1.permit_pb2 import PublicKey, Signed
from svc_kit.errors import PermissionDenied
from svc_kit.key_files import load_or_create_key, public_bytes, thumbprint

# What a signature is for. It is signed along, so a permit can never pass for an attempt token.
ATTEMPT_PURPOSE = b"interlock.attempt.v1"
PERMIT_PURPOSE = b"interlock.permit.v1"
RECEIPT_PURPOSE = b"interlock.receipt.v1"


class SigningKey:
    """A private key of one use: `attempt`, `permit`, `receipt` or `checkpoint`."""

    def __init__(self, private: Ed25519PrivateKey, use: str) -> None:
        self._private = private
        self.use = use
        self.kid = thumbprint(private.public_key())

    @classmethod
    def load_or_create(cls, directory: Path, use: str) -> "SigningKey":
        """The key in `<directory>/<use>.pem`, made on first use with mode 0600."""
        return cls(load_or_create_key(directory / f"{use}.pem"), use)

    def sign(self, purpose: bytes, payload: bytes) -> Signed:
        """`payload` with this key's signature for `purpose`."""
        signature = self._private.sign(_message(purpose, payload))
        return Signed(key_id=self.kid, payload=payload, signature=signature)

    def public(self) -> PublicKey:
        """What verifiers need; safe to publish."""
        return PublicKey(key_id=self.kid, ed25519=public_bytes(self._private.public_key()), use=self.use)


class KeyRing:
    """Published keys that signatures are checked with. Keys can be exchanged while it is in use."""

    def __init__(self, keys: Iterable[PublicKey] = ()) -> None:
        self._keys: dict[tuple[str, str], Ed25519PublicKey] = {}
        self.replace(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def replace(self, keys: Iterable[PublicKey]) -> None:
        """Trust exactly `keys` from now on; ValueError, and no change, if one is not what its id says."""
        trusted: dict[tuple[str, str], Ed25519PublicKey] = {}
        for published in keys:
            key = Ed25519PublicKey.from_public_bytes(published.ed25519)
            if thumbprint(key) != published.key_id:
                raise ValueError(f"the key {published.key_id} does not have that thumbprint")
            trusted[published.use, published.key_id] = key
        self._keys = trusted

    def verify(self, purpose: bytes, signed: Signed) -> bytes:
        """The payload, if a key published for this purpose signed it; else SIGNATURE_INVALID."""
        key = self._keys.get((_use(purpose), signed.key_id))
        if key is None:
            raise _invalid(f"no trusted key of use {_use(purpose)} has the id {signed.key_id[:64]!r}")
        try:
            key.verify(signed.signature, _message(purpose, signed.payload))
        except InvalidSignature:
            raise _invalid("the signature does not fit the payload") from None
        return signed.payload


def _use(purpose: bytes) -> str:
    """The use of the keys that sign `purpose`: its second word."""
    return purpose.split(b".")[1].decode()


def _message(purpose: bytes, payload: bytes) -> bytes:
    return purpose + b"\0" + payload


def _invalid(message: str) -> PermissionDenied:
    return PermissionDenied(ErrorReason.ERROR_REASON_SIGNATURE_INVALID, message)
