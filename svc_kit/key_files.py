"""Keys in files that only their owner can read."""

import base64
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The key in `path`, made on first use with mode 0600.

    Two processes that start at once end up with the same key: the file appears complete or not at all, and
    the first one stays. A key that others may read is refused (PermissionError).
    """
    key = serialization.load_pem_private_key(read_or_create(path, _new_pem), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} does not hold an Ed25519 key")  # noqa: TRY004 - wrong content, not type
    return key


def public_bytes(key: Ed25519PublicKey) -> bytes:
    """The 32 raw bytes of `key`."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def thumbprint(key: Ed25519PublicKey) -> str:
    """The name of `key`: its JWK thumbprint (RFC 7638), 43 characters."""
    x = base64.urlsafe_b64encode(public_bytes(key)).rstrip(b"=").decode()
    canonical = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    return base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()


def read_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of a secret file, made on first use with mode 0600.

    A file that others may read is refused (PermissionError).
    """
    if not path.exists():
        _create(path, make())
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise PermissionError(f"{path} is readable by others (mode {mode:04o}); run: chmod 600 {path}")
    return path.read_bytes()


def _new_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _create(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was first; its key counts
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
