"""Which event gets which index: decided in memory, while the heads of the trees are locked."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from audit_svc.event import Appended, NewEvent, nanoseconds, rfc3339
from audit_svc.leaf import build_leaf, commitments, new_salts, repeats
from audit_svc.merkle import Frontier
from interlock.verify.merkle import leaf_hash


class EventKey(NamedTuple):
    """By which an event is known for ever."""

    log_id: uuid.UUID
    event_id: uuid.UUID


class ActorKey(NamedTuple):
    """A subject in one log; the same subject has another pseudonym in every log."""

    log_id: uuid.UUID
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogName:
    """A tenant's log."""

    log_id: uuid.UUID
    tenant: str
    origin: str
    first_key: int = 1
    """Number of the key that signs its checkpoints until a change of key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An event at its place; `salts` are those still stored."""

    index: int
    leaf: bytes
    leaf_hash: bytes
    salts: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """What is to be stored of one event."""

    log_id: uuid.UUID
    event: NewEvent
    pseudonym: str
    recorded_time: datetime
    placed: Placed


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How one tree grew: `leaf_hashes` came on top of `old_size` leaves, whose root is `old_root`."""

    old_size: int
    old_root: bytes
    frontier: Frontier
    leaf_hashes: tuple[bytes, ...]


class EventIdReusedError(Exception):
    """An id came again with other content; nothing of its batch was taken."""

    def __init__(self, event_id: uuid.UUID) -> None:
        super().__init__(str(event_id))
        self.event_id = event_id


class Sequencer:
    """Takes batches one after the other, each whole or not at all, and knows what is to be stored at the end.

    `heads` are the trees as locked; `found` are the entries that stand already under ids of these batches.
    """

    def __init__(
        self,
        *,
        logs: Mapping[str, LogName],
        heads: Mapping[uuid.UUID, Frontier],
        found: Mapping[EventKey, Placed],
        pseudonyms: Mapping[ActorKey, str],
        recorded_time: datetime,
    ) -> None:
        self._logs = logs
        self._heads = heads
        self._pseudonyms = pseudonyms
        self._recorded_time = recorded_time
        self._recorded_at = rfc3339(nanoseconds(recorded_time))
        self._placed = dict(found)
        self._next_index = {log_id: head.size for log_id, head in heads.items()}
        self.entries: list[NewEntry] = []

    def take(self, batch: Sequence[NewEvent]) -> None:
        """Place every event of a batch; raises EventIdReusedError, and then the batch leaves no trace."""
        placed: dict[EventKey, Placed] = {}
        next_index = dict(self._next_index)
        entries = []
        for event in batch:
            log = self._logs[event.tenant]
            key = EventKey(log.log_id, event.event_id)
            pseudonym = self._pseudonyms.get(ActorKey(log.log_id, event.actor), "")
            known = placed.get(key) or self._placed.get(key)
            if known is not None:
                if not repeats(event, known.leaf, origin=log.origin, pseudonym=pseudonym, salts=known.salts):
                    raise EventIdReusedError(event.event_id)
                continue
            placed[key] = self._place(event, log.origin, pseudonym, next_index[log.log_id])
            next_index[log.log_id] += 1
            entries.append(
                NewEntry(
                    log_id=log.log_id,
                    event=event,
                    pseudonym=pseudonym,
                    recorded_time=self._recorded_time,
                    placed=placed[key],
                )
            )
        self._placed |= placed
        self._next_index = next_index
        self.entries += entries

    def growth(self) -> dict[uuid.UUID, Growth]:
        """How each tree grew by what was taken; trees that did not grow are left out."""
        hashes: dict[uuid.UUID, list[bytes]] = {}
        for entry in self.entries:
            hashes.setdefault(entry.log_id, []).append(entry.placed.leaf_hash)
        return {
            log_id: Growth(
                old_size=self._heads[log_id].size,
                old_root=self._heads[log_id].root(),
                frontier=self._heads[log_id].extended(added),
                leaf_hashes=tuple(added),
            )
            for log_id, added in hashes.items()
        }

    def answer(self, batch: Sequence[NewEvent]) -> tuple[Appended, ...]:
        """Where the events of a batch that was taken stand, once everything is taken."""
        return tuple(self._answer(event) for event in batch)

    def _answer(self, event: NewEvent) -> Appended:
        log_id = self._logs[event.tenant].log_id
        placed = self._placed[EventKey(log_id, event.event_id)]
        return Appended(
            index=placed.index,
            leaf_hash=placed.leaf_hash,
            tree_size=self._next_index[log_id],
            already_existed=placed.index < self._heads[log_id].size,
        )

    def _place(self, event: NewEvent, origin: str, pseudonym: str, index: int) -> Placed:
        salts = new_salts(event)
        leaf = build_leaf(
            event,
            origin=origin,
            recorded_at=self._recorded_at,
            pseudonym=pseudonym,
            parts=commitments(event, salts),
        )
        return Placed(index=index, leaf=leaf, leaf_hash=leaf_hash(leaf), salts=salts)
