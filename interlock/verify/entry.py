"""What one leaf of the audit log says, and whether a payload is the one it committed to."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEAF_VERSION = 1
COMMITMENT = "hmac-sha256"
SALT_SIZE = 32


class EntryError(ValueError):
    """A leaf's bytes are not what a leaf holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commitment:
    """What a leaf says about a payload part that lies outside the tree.

    `digest` is HMAC-SHA256(salt, bytes): once salt and bytes are erased it tells nothing, and every
    proof over the leaf stays valid.
    """

    name: str
    digest: bytes
    size: int
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """The fields of a leaf that a verifier needs; `origin` names the log, `fields` holds all as stored."""

    event_id: str
    origin: str
    producer: str
    type: str
    task_id: str
    parts: tuple[Commitment, ...]
    fields: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartBytes:
    """A payload part as handed over: its bytes and the salt of its commitment."""

    salt: bytes
    body: bytes


def commit(salt: bytes, body: bytes) -> bytes:
    """The digest by which a leaf commits to `body`."""
    return hmac.digest(salt, body, "sha256")


def matches(commitment: Commitment, part: PartBytes) -> bool:
    """Whether `part` is what the leaf committed to, byte for byte."""
    return (
        len(part.salt) == SALT_SIZE
        and len(part.body) == commitment.size
        and hmac.compare_digest(commit(part.salt, part.body), commitment.digest)
    )


def parse_leaf(data: bytes) -> Leaf:
    """Read a leaf's bytes; raises EntryError when they are not those of an entry of this version.

    Two keys of one name are refused: two readers must never see two things in the same bytes.
    """
    try:
        fields = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EntryError(f"the leaf is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise EntryError("the leaf is not a JSON object")
    if fields.get("v") != LEAF_VERSION:
        raise EntryError(f"leaf version {fields.get('v')!r} is not known here")
    parts = fields.get("parts", [])
    if not isinstance(parts, list):
        raise EntryError("the leaf's parts are not a list")
    commitments = tuple(_commitment(part) for part in parts)
    if len({c.name for c in commitments}) != len(commitments):
        raise EntryError("the leaf names one part twice")
    return Leaf(
        event_id=_text(fields, "id"),
        origin=_text(fields, "log"),
        producer=_text(fields, "producer"),
        type=_text(fields, "type"),
        task_id=_text(fields, "task") if "task" in fields else "",
        parts=commitments,
        fields=fields,
    )


def _commitment(part: object) -> Commitment:
    if not isinstance(part, dict):
        raise EntryError("a part of the leaf is not an object")
    if part.get("alg") != COMMITMENT:
        raise EntryError(f"commitment {part.get('alg')!r} is not known here")
    size = part.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise EntryError("a part's size is not a count of bytes")
    digest = _text(part, "digest")
    try:
        raw = bytes.fromhex(digest)
    except ValueError:
        raw = b""
    if len(raw) != hashlib.sha256().digest_size or raw.hex() != digest:
        raise EntryError("a part's digest is not 64 lowercase hexadecimal digits")
    return Commitment(name=_text(part, "name"), digest=raw, size=size, content_type=_text(part, "ctype"))


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or not value:
        raise EntryError(f"the leaf's {key!r} is missing or not text")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise EntryError("one key twice in the same object")
    return fields


def _no_constant(name: str) -> Any:
    raise EntryError(f"{name} is no JSON number")
