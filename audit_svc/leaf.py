"""What stands in the leaf of an event."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from audit_svc.canonical import MAX_LEAF_BYTES, LeafValue, leaf_bytes
from audit_svc.event import NewEvent, rfc3339
from interlock.verify.entry import COMMITMENT, LEAF_VERSION, SALT_SIZE, Commitment, commit, parse_leaf

PSEUDONYM_SIZE = 32

_BLANK_DIGEST = bytes(32)
# What stands around the texts of a leaf: names, ids, times, digests, numbers, punctuation.
_FIXED_BYTES = 1024
_PART_BYTES = 256
_ATTRIBUTE_BYTES = 8


def new_salts(event: NewEvent) -> dict[str, bytes]:
    """A fresh salt for each part of an event."""
    return {part.name: secrets.token_bytes(SALT_SIZE) for part in event.parts}


def new_pseudonym() -> str:
    """A name for an actor that tells nothing by itself."""
    return secrets.token_hex(PSEUDONYM_SIZE // 2)


def commitments(event: NewEvent, salts: Mapping[str, bytes]) -> list[Commitment]:
    """The salted commitments to an event's parts, in its order."""
    return [
        Commitment(
            name=part.name,
            digest=commit(salts[part.name], part.body),
            size=len(part.body),
            content_type=part.content_type,
        )
        for part in event.parts
    ]


def build_leaf(
    event: NewEvent, *, origin: str, recorded_at: str, pseudonym: str, parts: Sequence[Commitment]
) -> bytes:
    """The leaf's bytes: opaque ids and short words only; what people wrote is in the parts.

    Raises LeafError when they would not fit a leaf.
    """
    fields: dict[str, LeafValue] = {
        "id": str(event.event_id),
        "log": origin,
        "producer": event.producer,
        "pseq": event.producer_sequence,
        "type": event.type,
        "event_time": rfc3339(event.event_time),
        "recorded_at": recorded_at,
        "actor": pseudonym if event.actor else "",
        "agent": event.agent,
        "agent_version": event.agent_version,
        "task": str(event.task_id) if event.task_id else "",
        "attempt": event.attempt,
        "step": event.step_key,
        "tool": event.tool,
        "call": event.call_id,
        "status": event.status,
        "reason": event.reason,
        "trace": event.trace_id,
        "span": event.span_id,
        "attributes": dict(event.attributes),
        "parts": [
            {
                "name": part.name,
                "alg": COMMITMENT,
                "digest": part.digest.hex(),
                "size": part.size,
                "ctype": part.content_type,
            }
            for part in parts
        ],
    }
    return leaf_bytes({"v": LEAF_VERSION, **{name: value for name, value in fields.items() if value}})


def require_fits(event: NewEvent, *, origin: str) -> None:
    """Raise LeafError now when the leaf of this event would be too large, whatever the time and the salts."""
    if _surely_fits(event, origin):
        return
    blank = [
        Commitment(name=p.name, digest=_BLANK_DIGEST, size=len(p.body), content_type=p.content_type)
        for p in event.parts
    ]
    build_leaf(event, origin=origin, recorded_at=rfc3339(0), pseudonym="0" * PSEUDONYM_SIZE, parts=blank)


def _surely_fits(event: NewEvent, origin: str) -> bool:
    """By its texts alone, each character counted as if it had to be escaped: so is almost every event."""
    texts = [
        origin,
        event.producer,
        event.type,
        event.agent,
        event.agent_version,
        event.step_key,
        event.tool,
        event.call_id,
        event.status,
        event.reason,
        event.trace_id,
        event.span_id,
        *event.attributes,
        *event.attributes.values(),
    ]
    for part in event.parts:
        texts += (part.name, part.content_type)
    text = "".join(texts)
    most = _FIXED_BYTES + _PART_BYTES * len(event.parts) + _ATTRIBUTE_BYTES * len(event.attributes)
    return text.isascii() and text.isprintable() and most + 2 * len(text) <= MAX_LEAF_BYTES


def repeats(
    event: NewEvent, stored_leaf: bytes, *, origin: str, pseudonym: str, salts: Mapping[str, bytes]
) -> bool:
    """Whether `event` has the content of the leaf that stands under its id.

    The leaf is built again with the stored time and salts. A part whose salt was erased can only be compared
    by its size and type.
    """
    stored = parse_leaf(stored_leaf)
    promised = {commitment.name: commitment for commitment in stored.parts}
    parts = []
    for part in event.parts:
        kept = promised.get(part.name)
        if kept is None or (kept.size, kept.content_type) != (len(part.body), part.content_type):
            return False
        salt = salts.get(part.name)
        parts.append(replace(kept, digest=commit(salt, part.body)) if salt is not None else kept)
    recorded_at: str = stored.fields["recorded_at"]
    return stored_leaf == build_leaf(
        event, origin=origin, recorded_at=recorded_at, pseudonym=pseudonym, parts=parts
    )
