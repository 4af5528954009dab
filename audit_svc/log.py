"""Appending: an event is acknowledged once it is durable, sequenced and part of its tenant's tree."""

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.canonical import LeafError
from audit_svc.errors import event_id_reused
from audit_svc.event import Appended, NewEvent
from audit_svc.leaf import new_pseudonym, require_fits
from audit_svc.merkle import TILE_WIDTH, Frontier, TileId, tile_root
from audit_svc.sequence import (
    ActorKey,
    EventIdReusedError,
    EventKey,
    Growth,
    LogName,
    NewEntry,
    Placed,
    Sequencer,
)
from svc_kit.clock import Clock
from svc_kit.errors import DomainError, Violation, invalid
from svc_kit.group_commit import GroupCommit, Observer

log = structlog.get_logger(__name__)

Batch: TypeAlias = tuple[NewEvent, ...]
Alongside: TypeAlias = Callable[[AsyncConnection, NewEntry], Awaitable[None]]

MAX_QUEUED_BATCHES = 4096
_MAX_REMEMBERED_ACTORS = 50_000
_MAX_REMEMBERED_HEADS = 10_000
_MAX_RACES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTile:
    """A tile that has become full."""

    log_id: uuid.UUID
    tile: TileId
    hashes: tuple[bytes, ...]
    root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """Trees that nobody else can append to for now, and those of the wanted events that stand already.

    `forgotten` is how many names each log has forgotten so far.
    """

    heads: Mapping[uuid.UUID, Frontier]
    found: Mapping[EventKey, Placed]
    forgotten: Mapping[uuid.UUID, int] = field(default_factory=dict)


class RepeatedError(Exception):
    """One of the events stands already, and was not looked for, or came while the lock was waited for."""


class AppendTransaction(Protocol):
    """One transaction that appends; nothing of it stands until it ends without an error."""

    async def lock(self, log_ids: Collection[uuid.UUID], keys: Collection[EventKey]) -> "Locked":
        """The trees as they stand, locked in the order of their ids, which is the same for all replicas.

        Also those of the events under `keys` that stand already.
        """
        ...

    async def pseudonyms(self, wanted: Mapping[ActorKey, str]) -> Mapping[ActorKey, str]:
        """The pseudonym of each actor; the one offered is stored for an actor that has none yet."""
        ...

    @property
    def connection(self) -> AsyncConnection:
        """The open transaction, for rows that must stand or fall with the entries."""
        ...

    async def hashes(self, log_id: uuid.UUID, tier: int, begin: int, end: int) -> Sequence[bytes]:
        """Stored hashes of one tier, from `begin` up to `end`, in order."""
        ...

    async def write(
        self,
        *,
        entries: Sequence[NewEntry],
        growth: Mapping[uuid.UUID, Growth],
        tiles: Sequence[NewTile],
    ) -> None:
        """Store everything; RepeatedError when an event stands already that `lock` did not find."""
        ...


class LogStore(Protocol):
    """What appending needs of the database."""

    async def logs(self, tenants: Collection[str]) -> Mapping[str, LogName]:
        """The tenants' logs; those that do not exist are made, empty."""
        ...

    def appending(self) -> AbstractAsyncContextManager[AppendTransaction]:
        """A transaction, committed when the block ends."""
        ...

    async def hashes(self, log_id: uuid.UUID, tier: int, begin: int, end: int) -> Sequence[bytes]:
        """Stored hashes of one tier, from `begin` up to `end`, in order; they never change."""
        ...

    async def append_to_known(
        self, entries: Sequence[NewEntry], growth: Mapping[uuid.UUID, Growth], tiles: Sequence[NewTile]
    ) -> bool:
        """Append to one tree in one round trip; False, and nothing is stored, where it is another by now."""
        ...


class HashStore(Protocol):
    """Reads stored hashes."""

    async def hashes(self, log_id: uuid.UUID, tier: int, begin: int, end: int) -> Sequence[bytes]:
        """Stored hashes of one tier, from `begin` up to `end`, in order."""
        ...


class AuditLog:
    """The way into the log. Any number of replicas may append: what counts is in the rows they lock.

    What a replica remembers of a tree is where it left it. While nobody else has appended, that spares it to
    read and to lock it first; otherwise the write changes nothing, and is done again with the tree as it is.
    Nor has anybody been forgotten then: that is an entry, too.
    """

    def __init__(
        self, store: LogStore, clock: Clock, *, origin_prefix: str, observe: Observer | None = None
    ) -> None:
        self._store = store
        self._clock = clock
        self._origin_prefix = origin_prefix
        self._logs: dict[str, LogName] = {}
        self._actors: dict[ActorKey, str] = {}
        self._heads: dict[uuid.UUID, Frontier] = {}
        self._forgotten: dict[uuid.UUID, int] = {}
        self._commits = 0
        self._group: GroupCommit[Batch, tuple[Appended, ...]] = GroupCommit(
            self._commit,
            size_of=lambda batch: sum(event.weight for event in batch),
            tenant_of=lambda batch: batch[0].tenant,
            max_queued_rows=MAX_QUEUED_BATCHES,
            observe=observe,
        )

    async def append(self, event: NewEvent) -> Appended:
        """Append one event; a repeat answers where the first one stands.

        Raises InvalidArgument when it does not fit a leaf, AlreadyExists when its id has other content.
        """
        self._require_fits(event, "event")
        return (await self._group.submit((event,)))[0]

    async def append_batch(self, events: Batch) -> tuple[Appended, ...]:
        """Append events in their order, all in one transaction or none."""
        for i, event in enumerate(events):
            self._require_fits(event, f"events[{i}]")
        return await self._group.submit(events)

    async def append_with(self, event: NewEvent, alongside: Alongside) -> Appended:
        """Append one event in a transaction of its own, in which `alongside` writes what the event tells of.

        Neither stands without the other. `alongside` comes last, when the event has its place; it may run
        twice when another replica came in between, each time in a new transaction. An event that stood
        already is not told of twice: then `alongside` does not run.
        """
        self._require_fits(event, "event")
        (answer,) = await self._commit([(event,)], alongside)
        if isinstance(answer, DomainError):
            raise answer
        return answer[0]

    def forget_names(self, tenant: str) -> None:
        """A name of this tenant's log went: what is remembered of them is asked for again."""
        self._forget_stale({self._logs[tenant].log_id: -1})

    @property
    def commits(self) -> int:
        """How many transactions have appended so far."""
        return self._commits

    async def close(self) -> None:
        """Finish what was accepted."""
        await self._group.close()

    def _require_fits(self, event: NewEvent, field: str) -> None:
        try:
            require_fits(event, origin=f"{self._origin_prefix}/{event.tenant}")
        except LeafError as error:
            raise invalid([Violation(field, str(error))]) from None

    async def _commit(
        self, batches: Sequence[Batch], alongside: Alongside | None = None
    ) -> Sequence[tuple[Appended, ...] | DomainError]:
        """Repeats are rare, and their keys refuse them: they are looked for only after one was refused."""
        self._commits += 1
        for tried in range(_MAX_RACES):
            try:
                if alongside is None and not tried and (answers := await self._commit_at_once(batches)):
                    return answers
                return await self._commit_once(batches, alongside, look=tried > 0)
            except RepeatedError:
                log.info("append_repeated", batches=len(batches))
        return await self._commit_once(batches, alongside, look=True)

    async def _commit_at_once(
        self, batches: Sequence[Batch]
    ) -> Sequence[tuple[Appended, ...] | DomainError] | None:
        """In one round trip, where all of it goes to one tree and all of that is known; None where not so."""
        events = [event for batch in batches for event in batch]
        name = self._logs.get(events[0].tenant)
        if name is None or any(event.tenant != name.tenant for event in events):
            return None
        # Forgotten until it is known how this ends.
        head = self._heads.pop(name.log_id, None)
        actors = {ActorKey(name.log_id, event.actor) for event in events if event.actor}
        if head is None or not actors <= self._actors.keys():
            return None
        sequencer = self._sequencer(
            {name.tenant: name}, Locked(heads={name.log_id: head}, found={}), self._actors
        )
        refused = _take_all(sequencer, batches)
        growth = sequencer.growth()
        if not growth:
            return None
        tiles = await _full_tiles(self._store, growth)
        if not await self._store.append_to_known(sequencer.entries, growth, tiles):
            return None
        self._heads[name.log_id] = growth[name.log_id].frontier
        return _answers(sequencer, batches, refused)

    def _sequencer(
        self, logs: Mapping[str, LogName], locked: Locked, pseudonyms: Mapping[ActorKey, str]
    ) -> Sequencer:
        return Sequencer(
            logs=logs,
            heads=locked.heads,
            found=locked.found,
            pseudonyms=pseudonyms,
            recorded_time=self._clock.now(),
        )

    async def _commit_once(
        self, batches: Sequence[Batch], alongside: Alongside | None, *, look: bool
    ) -> Sequence[tuple[Appended, ...] | DomainError]:
        events = [event for batch in batches for event in batch]
        logs = await self._logs_of({event.tenant for event in events})
        async with self._store.appending() as transaction:
            keys = {EventKey(logs[event.tenant].log_id, event.event_id) for event in events if look}
            locked = await transaction.lock({log.log_id for log in logs.values()}, keys)
            self._forget_stale(locked.forgotten)
            actors = {ActorKey(logs[event.tenant].log_id, event.actor) for event in events if event.actor}
            pseudonyms = await self._pseudonyms(transaction, actors)
            sequencer = self._sequencer(logs, locked, pseudonyms)
            refused = _take_all(sequencer, batches)
            growth = sequencer.growth()
            tiles = await _full_tiles(transaction, growth)
            await transaction.write(entries=sequencer.entries, growth=growth, tiles=tiles)
            if alongside is not None and sequencer.entries:
                await alongside(transaction.connection, sequencer.entries[0])
        # Remembered only now: a pseudonym of a transaction that was rolled back stands for nobody.
        if len(self._actors) > _MAX_REMEMBERED_ACTORS:
            self._actors.clear()
        self._actors.update(pseudonyms)
        self._remember({**locked.heads, **{log_id: grown.frontier for log_id, grown in growth.items()}})
        return _answers(sequencer, batches, refused)

    def _forget_stale(self, forgotten: Mapping[uuid.UUID, int]) -> None:
        """Who acts again after being forgotten gets another pseudonym."""
        for log_id, count in forgotten.items():
            if self._forgotten.get(log_id) != count:
                self._actors = {key: name for key, name in self._actors.items() if key.log_id != log_id}
                self._forgotten[log_id] = count

    def _remember(self, heads: Mapping[uuid.UUID, Frontier]) -> None:
        if len(self._heads) > _MAX_REMEMBERED_HEADS:
            self._heads.clear()
        self._heads.update(heads)

    async def _logs_of(self, tenants: set[str]) -> Mapping[str, LogName]:
        missing = tenants - self._logs.keys()
        if missing:
            self._logs.update(await self._store.logs(missing))
        return {tenant: self._logs[tenant] for tenant in tenants}

    async def _pseudonyms(
        self, transaction: AppendTransaction, actors: set[ActorKey]
    ) -> Mapping[ActorKey, str]:
        known = {key: self._actors[key] for key in actors if key in self._actors}
        unknown = {key: new_pseudonym() for key in actors if key not in known}
        return {**known, **(await transaction.pseudonyms(unknown))} if unknown else known


def _take_all(sequencer: Sequencer, batches: Sequence[Batch]) -> dict[int, DomainError]:
    refused: dict[int, DomainError] = {}
    for i, batch in enumerate(batches):
        try:
            sequencer.take(batch)
        except EventIdReusedError as error:
            refused[i] = event_id_reused(error.event_id)
    return refused


def _answers(
    sequencer: Sequencer, batches: Sequence[Batch], refused: Mapping[int, DomainError]
) -> Sequence[tuple[Appended, ...] | DomainError]:
    return [refused.get(i) or sequencer.answer(batch) for i, batch in enumerate(batches)]


async def _full_tiles(stored_hashes: HashStore, growth: Mapping[uuid.UUID, Growth]) -> list[NewTile]:
    """The tiles that became full, on every tier: a full tile is one more hash for the tier above."""
    tiles: list[NewTile] = []
    for log_id, grown in growth.items():
        tier, old_width, added = 0, grown.old_size, list(grown.leaf_hashes)
        while added:
            begin = old_width - old_width % TILE_WIDTH
            if old_width + len(added) - begin < TILE_WIDTH:
                break
            stored = await stored_hashes.hashes(log_id, tier, begin, old_width)
            hashes = [*stored, *added]
            roots = []
            for i in range(0, len(hashes) - TILE_WIDTH + 1, TILE_WIDTH):
                full = tuple(hashes[i : i + TILE_WIDTH])
                roots.append(tile_root(full))
                tile = TileId(tier, (begin + i) // TILE_WIDTH)
                tiles.append(NewTile(log_id=log_id, tile=tile, hashes=full, root=roots[-1]))
            tier, old_width, added = tier + 1, begin // TILE_WIDTH, roots
    return tiles
