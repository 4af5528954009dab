"""Searching: entries by what their columns say, newest first, with proofs that the log holds them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.errors import entry_not_found
from audit_svc.event import StoredEntry
from audit_svc.sequence import LogName
from audit_svc.trail import AuditReader, ProvenEntry, how_many_fit
from interlock.audit.v1.entry_pb2 import EntryType
from svc_kit.errors import Violation, invalid
from svc_kit.filters import Condition, FieldType, FilterField, Operator, parse_filter

_TYPES = frozenset(name.removeprefix("ENTRY_TYPE_") for name in EntryType.keys()[1:])
ACTOR = "actor"
FIELDS: Mapping[str, FilterField] = {
    ACTOR: FilterField(),
    "agent": FilterField(),
    "agent_version": FilterField(),
    "event_time": FilterField(type=FieldType.TIME),
    "producer": FilterField(),
    "recorded_time": FilterField(type=FieldType.TIME),
    "status": FilterField(),
    "task_id": FilterField(type=FieldType.UUID),
    "tool": FilterField(),
    "type": FilterField(values=_TYPES),
}


class Place(NamedTuple):
    """Where an entry stands in the order of a search: the later comes first."""

    recorded_time: datetime
    leaf_index: int


class Found(NamedTuple):
    """An entry that fits, and how heavy it is."""

    event_id: uuid.UUID
    place: Place
    leaf_bytes: int
    body_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """Entries newest first; `next_place` is the last one's place if there are more, else None.

    Of the first `text_size` entries contents could be found by their words; 0 where nobody asked for any.
    """

    entries: tuple[ProvenEntry, ...]
    checkpoint: SignedCheckpoint
    next_place: Place | None
    text_size: int = 0


class SearchStore(Protocol):
    """What searching needs of the database."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None: ...
    async def find_entries(
        self,
        log_id: uuid.UUID,
        conditions: Sequence[Condition],
        *,
        text: str,
        size: int,
        after: Place | None,
        limit: int,
    ) -> Sequence[Found]: ...
    async def entries(
        self, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID], *, with_bodies: bool
    ) -> Sequence[StoredEntry]: ...


class Texts(Protocol):
    """What is asked of the index of words."""

    async def size(self, log_id: uuid.UUID) -> int: ...
    async def has_words(self, text: str) -> bool: ...


class AuditSearch:
    """Searches one tenant's log at a time; all pages of a search are of the log as its first page saw it."""

    def __init__(
        self, store: SearchStore, texts: Texts, reader: AuditReader, checkpoints: Checkpoints
    ) -> None:
        self._store = store
        self._texts = texts
        self._reader = reader
        self._checkpoints = checkpoints

    async def page(
        self,
        tenant: str,
        conditions: Sequence[Condition],
        *,
        text: str,
        after: Place | None,
        size: int,
        limit: int,
        with_bodies: bool,
        with_proofs: bool,
    ) -> SearchPage:
        """Entries that fulfil every condition, behind a place; `size` is that of the first page, or 0.

        With `text`, those that have a content with such words; raises INVALID_FIELDS for one without words.
        """
        if text and not await self._texts.has_words(text):
            raise invalid([Violation("text", "holds no word to search for")])
        name = await self._store.log_of(tenant)
        signed = await (self._checkpoints.at(tenant, size) if size else self._checkpoints.newest(tenant))
        if signed is None:
            raise entry_not_found(f"page of the checkpoint of size {size}")
        asked = await by_pseudonym(self._store, name, conditions) if name is not None else None
        if name is None or asked is None:
            return SearchPage(entries=(), checkpoint=signed, next_place=None)
        # Asked before: what is said to be found is.
        text_size = await self._texts.size(name.log_id) if text else 0
        found = await self._store.find_entries(
            name.log_id, asked, text=text, size=signed.checkpoint.size, after=after, limit=limit + 1
        )
        sizes = [(each.place.leaf_index, each.leaf_bytes, each.body_bytes) for each in found[:limit]]
        fitting = how_many_fit(sizes, with_bodies=with_bodies)
        event_ids = [each.event_id for each in found[:fitting]]
        stored = await self._store.entries(name.log_id, event_ids, with_bodies=with_bodies)
        by_id = {each.event_id: each for each in stored}
        entries = [by_id[event_id] for event_id in event_ids]
        proven = (
            await self._reader.prove(name, entries, signed)
            if with_proofs
            else [ProvenEntry(entry=each, proof=()) for each in entries]
        )
        more = fitting < len(found) and fitting > 0
        return SearchPage(
            entries=tuple(proven),
            checkpoint=signed,
            next_place=found[fitting - 1].place if more else None,
            text_size=min(text_size, signed.checkpoint.size),
        )


class ActorStore(Protocol):
    """What is asked of the store, which says what it does."""

    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None: ...


async def by_pseudonym(
    store: ActorStore, name: LogName, conditions: Sequence[Condition]
) -> Sequence[Condition] | None:
    """With actors as the log knows them; None where somebody is asked for who never did anything."""
    asked = []
    for condition in conditions:
        if condition.field != ACTOR:
            asked.append(condition)
            continue
        pseudonym = await store.pseudonym(name.log_id, str(condition.value))
        if pseudonym is not None:
            asked.append(Condition(ACTOR, condition.operator, pseudonym))
        elif condition.operator is Operator.EQUAL:
            return None
    return asked


def read_filter(text: str) -> tuple[Condition, ...]:
    """The conditions of a filter; raises FILTER_INVALID."""
    return parse_filter(text, FIELDS)


def names_somebody(conditions: Sequence[Condition]) -> bool:
    """Whether the search would tell who stands behind a pseudonym."""
    return any(condition.field == ACTOR for condition in conditions)
