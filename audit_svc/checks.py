"""Checks of requests: pure functions that find everything wrong before anything is done."""

import re
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from audit_svc.event import nanoseconds
from interlock.audit.v1.entry_pb2 import EntryType, Event, Payload
from svc_kit.errors import Violation

MAX_AHEAD = timedelta(minutes=5)
MAX_PART_BYTES = 1024 * 1024
MAX_EVENT_BYTES = 2 * 1024 * 1024
MAX_BATCH_EVENTS = 512
MAX_PARTS = 8
MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_CHARACTERS = 512
MAX_COUNT = 2**53 - 1
MAX_SEARCH_CHARACTERS = 256

# Tenants become part of a log's origin, which is a key name: no space, no plus, no slash.
_TENANT = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
_WORD = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_PART = re.compile(r"[a-z0-9_]{1,32}")
_ATTRIBUTE = re.compile(r"[a-z0-9_]{1,64}")
_CONTENT_TYPE = re.compile(
    r"[a-z0-9!#$&^_.+-]{1,63}/[a-z0-9!#$&^_.+-]{1,63}(; ?[a-z0-9-]{1,32}=[\w.+-]{1,32}){0,2}"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# What each plain text field may hold at most, in characters.
_TEXT_LIMITS = {
    "actor": 256,
    "agent": 128,
    "agent_version": 64,
    "step_key": 256,
    "tool": 128,
    "call_id": 128,
}
_AHEAD = "lies more than five minutes in the future: check the producer's clock"
_UUID_VERSION = 7
# A gap in the log counts as explained only by entries of these; nobody else may write one.
_OWN_TYPES = frozenset(
    {
        EntryType.ENTRY_TYPE_ERASURE,
        EntryType.ENTRY_TYPE_RETENTION,
        EntryType.ENTRY_TYPE_HOLD,
        EntryType.ENTRY_TYPE_KEY_ROTATION,
    }
)
_LAST_SECOND = 253_402_300_799  # of the year 9999
_SECOND = 1_000_000_000
_HEX_LENGTHS = {"trace_id": 32, "span_id": 16}


def check_event(event: Event, *, now: datetime, field: str = "event") -> list[Violation]:
    """Everything wrong with one event; `field` is where it stands in the request."""
    found = [
        *_check_identity(event, now),
        *_check_texts(event),
        *_check_attributes(event),
        *_check_parts(event),
    ]
    return [Violation(f"{field}.{violation.field}", violation.message) for violation in found]


def check_batch(events: Sequence[Event], *, now: datetime) -> list[Violation]:
    """Everything wrong with one batch of a stream."""
    if not events:
        return [Violation("events", "a batch holds at least one event")]
    if len(events) > MAX_BATCH_EVENTS:
        return [Violation("events", f"a batch holds at most {MAX_BATCH_EVENTS} events, not {len(events)}")]
    if len(events) > 1 and sum(event.ByteSize() for event in events) > MAX_EVENT_BYTES:
        return [Violation("events", f"a batch holds at most {MAX_EVENT_BYTES} bytes")]
    return [v for i, event in enumerate(events) for v in check_event(event, now=now, field=f"events[{i}]")]


def check_uuid(value: str, field: str) -> list[Violation]:
    """A UUID in its one canonical spelling."""
    if _uuid(value) is None:
        return [Violation(field, "must be a UUID such as 01900000-0000-7000-8000-000000000000")]
    return []


def check_size(value: int, field: str, *, at_least: int = 0) -> list[Violation]:
    """A tree size or index."""
    if value < at_least:
        return [Violation(field, f"must be at least {at_least}")]
    return []


def check_text(value: str) -> list[Violation]:
    """Words to search for; whether there are any knows the database."""
    if len(value) > MAX_SEARCH_CHARACTERS:
        return [Violation("text", f"has {len(value)} characters, the limit is {MAX_SEARCH_CHARACTERS}")]
    if _CONTROL.search(value):
        return [Violation("text", "holds control characters")]
    return []


def _check_identity(event: Event, now: datetime) -> Iterator[Violation]:
    latest = nanoseconds(now + MAX_AHEAD)
    event_id = _uuid(event.event_id)
    if event_id is None or event_id.version != _UUID_VERSION:
        yield Violation("event_id", "must be a UUIDv7")
    elif (event_id.int >> 80) * 1_000_000 > latest:
        yield Violation("event_id", _AHEAD)
    if not _TENANT.fullmatch(event.tenant):
        yield Violation("tenant", "must be lower-case letters, digits, '.', '_' or '-', at most 63")
    if event.type == EntryType.ENTRY_TYPE_UNSPECIFIED or event.type not in EntryType.values():
        yield Violation("type", "must be one of the known entry types")
    elif event.type in _OWN_TYPES:
        yield Violation("type", f"{EntryType.Name(event.type)} is written by the log itself alone")
    yield from _check_time(event, latest)
    yield from _check_numbers(event)


def _check_time(event: Event, latest: int) -> Iterator[Violation]:
    if not event.HasField("event_time") or not _is_time(event.event_time):
        yield Violation("event_time", "must be a time between the years 1970 and 9999")
    elif event.event_time.ToNanoseconds() > latest:
        yield Violation("event_time", _AHEAD)


def _check_numbers(event: Event) -> Iterator[Violation]:
    if not 0 <= event.producer_sequence <= MAX_COUNT:
        yield Violation("producer_sequence", "must be between 0 and 2^53-1")
    if event.attempt < 0:
        yield Violation("attempt", "must not be negative")
    if event.task_id and _uuid(event.task_id) is None:
        yield Violation("task_id", "must be a UUID, or empty")


def _check_texts(event: Event) -> Iterator[Violation]:
    for name, limit in _TEXT_LIMITS.items():
        value: str = getattr(event, name)
        if len(value) > limit:
            yield Violation(name, f"has {len(value)} characters, the limit is {limit}")
        elif _CONTROL.search(value):
            yield Violation(name, "holds control characters")
    for name in ("status", "reason"):
        value = getattr(event, name)
        if value and not _WORD.fullmatch(value):
            yield Violation(name, "must be capitals, digits and '_', at most 64, or empty")
    for name, length in _HEX_LENGTHS.items():
        value = getattr(event, name)
        if value and not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
            yield Violation(name, f"must be {length} lower-case hexadecimal digits, or empty")


def _check_attributes(event: Event) -> Iterator[Violation]:
    if len(event.attributes) > MAX_ATTRIBUTES:
        yield Violation("attributes", f"at most {MAX_ATTRIBUTES}, not {len(event.attributes)}")
    for name, value in sorted(event.attributes.items()):
        if not _ATTRIBUTE.fullmatch(name):
            yield Violation(
                "attributes", f"key {name[:64]!r} must be lower-case letters, digits and '_', at most 64"
            )
        elif len(value) > MAX_ATTRIBUTE_CHARACTERS:
            yield Violation(f"attributes.{name}", f"has more than {MAX_ATTRIBUTE_CHARACTERS} characters")
        elif _CONTROL.search(value):
            yield Violation(f"attributes.{name}", "holds control characters")


def _check_parts(event: Event) -> Iterator[Violation]:
    if len(event.payloads) > MAX_PARTS:
        yield Violation("payloads", f"at most {MAX_PARTS}, not {len(event.payloads)}")
    if sum(len(payload.body) for payload in event.payloads) > MAX_EVENT_BYTES:
        yield Violation("payloads", f"together have more than {MAX_EVENT_BYTES} bytes")
    seen: set[str] = set()
    for i, payload in enumerate(event.payloads):
        for violation in _check_part(payload):
            yield Violation(f"payloads[{i}].{violation.field}", violation.message)
        if payload.part in seen:
            yield Violation(f"payloads[{i}].part", f"{payload.part!r} comes twice")
        seen.add(payload.part)


def _check_part(payload: Payload) -> Iterator[Violation]:
    if not _PART.fullmatch(payload.part):
        yield Violation("part", "must be lower-case letters, digits and '_', at most 32")
    if not _CONTENT_TYPE.fullmatch(payload.content_type):
        yield Violation("content_type", "must be a media type such as application/json")
    if len(payload.body) > MAX_PART_BYTES:
        yield Violation("body", f"has {len(payload.body)} bytes, the limit is {MAX_PART_BYTES}")


def _uuid(value: str) -> uuid.UUID | None:
    try:
        parsed = uuid.UUID(value)
    except ValueError:
        return None
    return parsed if str(parsed) == value else None


def _is_time(value: Timestamp) -> bool:
    return 0 <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < _SECOND
