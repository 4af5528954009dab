"""C2SP signed notes with Ed25519 keys: text, an empty line, then signature lines.

Format: c2sp.org/signed-note. Signatures by keys that nobody here knows are carried but prove nothing.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_NOTE_BYTES = 1_000_000
MAX_SIGNATURES = 100

_ED25519 = b"\x01"
_KEY_SIZE = 32
_KEY_HASH_SIZE = 4
_HASH_SIZE = 32
_DASH = "\u2014 "
_FORBIDDEN = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_NAME = re.compile(r"[^\s+\x00-\x1f]+")


class NoteError(ValueError):
    """A signed note or key is malformed, or not signed by the key it must be signed by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteKey:
    """An Ed25519 verifier key with its name; `str()` gives the `name+hash+key` text people pin."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        _require_name(self.name)
        if len(self.public_key) != _KEY_SIZE:
            raise NoteError(f"an Ed25519 key has {_KEY_SIZE} bytes, not {len(self.public_key)}")

    @property
    def key_hash(self) -> bytes:
        """The four bytes by which a signature line names its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public_key).digest()[
            :_KEY_HASH_SIZE
        ]

    def __str__(self) -> str:
        encoded = base64.b64encode(_ED25519 + self.public_key).decode()
        return f"{self.name}+{self.key_hash.hex()}+{encoded}"

    @classmethod
    def parse(cls, text: str) -> "NoteKey":
        """Read the `name+hash+key` text; a hash that does not fit the key is an error."""
        # Base64 may hold "+", so only the first two separate.
        try:
            name, key_hash, encoded = text.split("+", 2)
        except ValueError:
            raise NoteError("a verifier key reads name+hash+key") from None
        key = _decode(encoded, "the verifier key")
        if key[:1] != _ED25519:
            raise NoteError("only Ed25519 verifier keys (type 1) are known")
        parsed = cls(name=name, public_key=key[1:])
        if parsed.key_hash.hex() != key_hash:
            raise NoteError("the hash in the verifier key does not fit its name and key")
        return parsed


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: who claims to have signed, and the bytes."""

    name: str
    key_hash: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedNote:
    """A parsed note; `text` ends in a newline and is what the signatures cover."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        lines = [
            f"{_DASH}{s.name} {base64.b64encode(s.key_hash + s.signature).decode()}\n"
            for s in self.signatures
        ]
        return f"{self.text}\n{''.join(lines)}"

    def require_signature(self, key: NoteKey) -> None:
        """Raise NoteError unless `key` signed this text."""
        mine = [s for s in self.signatures if s.name == key.name and s.key_hash == key.key_hash]
        if not mine:
            raise NoteError(f"the note carries no signature by {key}")
        public_key = Ed25519PublicKey.from_public_bytes(key.public_key)
        for signature in mine:
            try:
                public_key.verify(signature.signature, self.text.encode())
            except InvalidSignature:
                raise NoteError(f"the signature by {key} does not fit the note's text") from None


def parse_note(text: str) -> SignedNote:
    """Split a signed note into text and signatures, refusing everything the format does not allow."""
    if len(text.encode(errors="surrogatepass")) > MAX_NOTE_BYTES:
        raise NoteError(f"the note is longer than {MAX_NOTE_BYTES} bytes")
    if _FORBIDDEN.search(text):
        raise NoteError("the note holds control characters or lone surrogates")
    # The last empty line separates: the text itself may hold empty lines.
    body, separator, tail = text.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise NoteError("a signed note is text, an empty line, and signature lines that end in a newline")
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"the note carries more than {MAX_SIGNATURES} signatures")
    return SignedNote(text=body + "\n", signatures=tuple(_parse_signature(line) for line in lines))


def signed_note(text: str, *, key: NoteKey, signature: bytes) -> SignedNote:
    """Join `text` and a signature over it; raises NoteError when they do not fit."""
    parsed = NoteSignature(name=key.name, key_hash=key.key_hash, signature=signature)
    note = SignedNote(text=text, signatures=(parsed,))
    note.require_signature(key)
    return note


def decode_hash(text: str, what: str) -> bytes:
    """Base64 to the 32 bytes of a SHA-256 hash; only the one canonical spelling is taken."""
    value = _decode(text, what)
    if len(value) != _HASH_SIZE:
        raise NoteError(f"{what} has {len(value)} bytes where {_HASH_SIZE} are needed")
    return value


def _parse_signature(line: str) -> NoteSignature:
    if not line.startswith(_DASH):
        raise NoteError("a signature line begins with an em dash and a space")
    name, separator, encoded = line[len(_DASH) :].partition(" ")
    if not separator:
        raise NoteError("a signature line holds a name and a signature")
    _require_name(name)
    value = _decode(encoded, "a signature")
    if len(value) <= _KEY_HASH_SIZE:
        raise NoteError("a signature is shorter than its key hash")
    return NoteSignature(name=name, key_hash=value[:_KEY_HASH_SIZE], signature=value[_KEY_HASH_SIZE:])


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise NoteError(f"{name!r} is no key name: it must hold no space and no plus")


def _decode(text: str, what: str) -> bytes:
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError(f"{what} is not base64") from None
    # Python takes several spellings of the same bytes; two readers must never disagree about one.
    if base64.b64encode(value).decode() != text:
        raise NoteError(f"{what} is not canonical base64")
    return value
