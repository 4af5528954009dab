"""Secrets at rest: AES-256-GCM, each bound to the place where it is stored."""

import base64
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from svc_kit.key_files import read_or_create

_NONCE_BYTES = 12
_KEY_BYTES = 32


class SealBrokenError(Exception):
    """The secret was sealed with another key or for another place, or was tampered with."""


class SecretBox:
    """Seals and opens with one key. A replica that is to open what another sealed needs the same key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def load_or_create(cls, path: Path) -> "SecretBox":
        """With the key in `path`, made on first use with mode 0600."""
        encoded = read_or_create(path, lambda: base64.b64encode(secrets.token_bytes(_KEY_BYTES)))
        key = base64.b64decode(encoded, validate=True)
        if len(key) != _KEY_BYTES:
            raise ValueError(f"{path} does not hold a key of {_KEY_BYTES} bytes in base64")
        return cls(key)

    def seal(self, secret: str, *, place: str) -> bytes:
        """The secret, encrypted; it opens with the same `place` alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), place.encode())

    def open(self, sealed: bytes, *, place: str) -> str:
        """The secret; raises SealBrokenError."""
        nonce, encrypted = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, encrypted, place.encode()).decode()
        except (InvalidTag, ValueError):
            raise SealBrokenError from None
