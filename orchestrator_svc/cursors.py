"""Where a watch of many tasks stands in the log, as an opaque text. Pure.

A cursor names the log, a position in it and the event that stands there. After the database was restored to
an earlier time the same position holds another event, or none: so a cursor from the lost history is known.
"""

import base64
import binascii
import hashlib
import uuid
from dataclasses import dataclass
from enum import Enum, auto

from orchestrator_svc.records import LogPlace, StoredEvent
from svc_kit.errors import Violation, invalid

_VERSION = b"\x01"
_POSITION_BYTES = 8
_EVENT_BYTES = 8
_CHECK_BYTES = 8
_BODY_BYTES = len(_VERSION) + 16 + _POSITION_BYTES + _EVENT_BYTES
_MAX_POSITION = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A place in a log: after the event at `position`.

    `event` is a digest of that event's name, since it may be one of another tenant's; it is all zeros where
    none was found there (an empty log, or one that is no longer kept).
    """

    log_id: uuid.UUID
    position: int
    event: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose cursor it is; in another tenant's hands or for another filter it is refused."""

    tenant: str
    filter: str


class Standing(Enum):
    """Whether a log can be read on from a mark."""

    KNOWN = auto()
    COMPACTED = auto()  # what follows it is no longer whole
    UNKNOWN = auto()  # it is of another history


NO_EVENT = bytes(_EVENT_BYTES)


def event_digest(task_id: uuid.UUID, revision: int) -> bytes:
    """What a mark says of an event."""
    return hashlib.sha256(task_id.bytes + revision.to_bytes(8)).digest()[:_EVENT_BYTES]


def mark_after(log_id: uuid.UUID, stored: StoredEvent) -> Mark:
    """The place after an event."""
    digest = event_digest(stored.event.task_id, stored.event.revision)
    return Mark(log_id=log_id, position=stored.position, event=digest)


def standing(mark: Mark, place: LogPlace) -> Standing:
    """How a log, seen at the mark's position, takes the mark."""
    if place.log_id != mark.log_id or mark.position > place.head:
        return Standing.UNKNOWN
    if mark.position < place.edge:
        return Standing.COMPACTED
    if place.event is None:
        # Nothing after the edge is missing, so there never was an event; at the edge itself it has gone.
        return Standing.KNOWN if mark.position == place.edge else Standing.UNKNOWN
    return Standing.KNOWN if mark.event in (place.event, NO_EVENT) else Standing.UNKNOWN


def encode(mark: Mark, scope: Scope) -> str:
    """The text of a mark."""
    body = _VERSION + mark.log_id.bytes + mark.position.to_bytes(_POSITION_BYTES) + mark.event
    return base64.urlsafe_b64encode(body + _check(body, scope)).decode().rstrip("=")


def decode(text: str, scope: Scope) -> Mark | None:
    """The mark; None for an empty text; raises INVALID_FIELDS for one of another scope."""
    if not text:
        return None
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    body, check = data[:_BODY_BYTES], data[_BODY_BYTES:]
    position = int.from_bytes(body[17:25])
    if body[:1] != _VERSION or check != _check(body, scope) or position > _MAX_POSITION:
        raise invalid(
            [Violation("cursor", "is damaged, or was given out for another filter or tenant; leave it empty")]
        )
    return Mark(log_id=uuid.UUID(bytes=body[1:17]), position=position, event=body[25:])


def _check(body: bytes, scope: Scope) -> bytes:
    """Finds mistakes, not forgery: a forged cursor shows nothing that its owner may not see."""
    named = f"{len(scope.tenant)} {scope.tenant} {scope.filter}".encode()
    return hashlib.sha256(body + named).digest()[:_CHECK_BYTES]
