"""Values of the log: what producers hand in, and what is stored of it."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One erasable content of an event."""

    name: str
    content_type: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A checked event on its way into the log; empty strings and zeros mean "none".

    `producer` and `actor` are subjects; `event_time` is nanoseconds since 1970.
    """

    event_id: uuid.UUID
    tenant: str
    producer: str
    type: str
    event_time: int
    producer_sequence: int = 0
    actor: str = ""
    agent: str = ""
    agent_version: str = ""
    task_id: uuid.UUID | None = None
    attempt: int = 0
    step_key: str = ""
    tool: str = ""
    call_id: str = ""
    status: str = ""
    reason: str = ""
    trace_id: str = ""
    span_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    @property
    def weight(self) -> int:
        """Roughly the bytes that storing it costs."""
        return 1024 + sum(len(part.body) for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """Where an event stands in its tenant's tree."""

    index: int
    leaf_hash: bytes
    tree_size: int
    already_existed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """A part as stored; `salt` and `body` are empty when they were not asked for, or are stored no more."""

    name: str
    content_type: str
    salt: bytes = b""
    body: bytes = field(default=b"", repr=False)
    present: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """An entry as stored; `leaf` is the very bytes that were hashed."""

    event_id: uuid.UUID
    index: int
    leaf: bytes
    recorded_time: datetime
    parts: tuple[StoredPart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedEntry:
    """What is left of an entry whose time was over: its place in the tree, and the event that says so."""

    index: int
    leaf_hash: bytes
    explained_by: uuid.UUID


def nanoseconds(time: datetime) -> int:
    """An aware time as nanoseconds since 1970, without the rounding of floats."""
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def rfc3339(time: int) -> str:
    """Nanoseconds since 1970 as a time with nine digits: JSON integers could not carry them."""
    seconds, fraction = divmod(time, 1_000_000_000)
    return f"{_second(seconds)}.{fraction:09d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """Events come in the order of time, many in one second, and writing a date is slow."""
    return f"{(_EPOCH + timedelta(seconds=seconds)):%Y-%m-%dT%H:%M:%S}"


def to_datetime(time: int) -> datetime:
    """Nanoseconds since 1970 as an aware time, cut to microseconds."""
    return _EPOCH + timedelta(microseconds=time // 1000)
