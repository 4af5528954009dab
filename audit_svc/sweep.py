"""Removing what is overdue, piece by piece: holds and minimums win, and an entry lists what went."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Protocol

import structlog
from prometheus_client import Counter, Gauge

from audit_svc.event import nanoseconds
from audit_svc.removal_store import PlacedEntry, PlacedPart
from audit_svc.removals import Removals
from audit_svc.retention import (
    CLASSES,
    RetentionClass,
    Rules,
    entries_overdue_before,
    overdue,
    overdue_before,
)
from audit_svc.sequence import LogName
from svc_kit import metrics
from svc_kit.advisory import Leader
from svc_kit.clock import Clock
from svc_kit.database import Database
from svc_kit.errors import DomainError

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 600.0
PIECE = 100
"""So many contents are looked at, and removed, at a time: who appends waits for no more than that."""
_PAUSE = 3.0
PREVIEWED = 100_000
# How far the clock of a producer, who made the id, may be from the log's, which recorded it.
_CLOCKS = timedelta(days=1)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

REMOVED = Counter(metrics.AUDIT_RETENTION_REMOVED, "Contents that were removed because their time was over.")
ENTRIES_REMOVED = Counter(
    metrics.AUDIT_RETENTION_REMOVED_ENTRIES, "Whole entries that were removed because their time was over."
)
OLDEST = Gauge(
    metrics.AUDIT_RETENTION_OLDEST_OVERDUE_SECONDS,
    "For how long the oldest content or entry that may go and is still there has been overdue.",
)


class PartKey(NamedTuple):
    """A stored content."""

    event_id: uuid.UUID
    part: str


class OldPart(NamedTuple):
    """A stored content with what decides over it."""

    event_id: uuid.UUID
    part: str
    leaf_index: int
    type: str
    recorded_time: datetime


class OldEntry(NamedTuple):
    """An entry whose time is over and whose contents are gone."""

    event_id: uuid.UUID
    leaf_index: int
    type: str
    recorded_time: datetime


@dataclass(slots=True, kw_only=True)
class ClassPreview:
    """What would happen to the contents of one class, and to entries whose contents are gone already."""

    due: int = 0
    held: int = 0
    minimum: int = 0
    oldest: datetime | None = None
    entries_due: int = 0
    entries_kept: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Overdue contents of one piece: those that may go, and those that something keeps."""

    due: Sequence[OldPart]
    kept: Sequence[tuple[OldPart, str]] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPiece:
    """Overdue entries of one piece: those that may go, and those that something keeps."""

    due: Sequence[OldEntry]
    kept: Sequence[OldEntry]


class SweepStore(Protocol):
    """What sweeping needs of the database."""

    async def logs_with_rules(self) -> Sequence[LogName]: ...
    async def rules(self, log_id: uuid.UUID) -> Rules: ...
    async def old_parts(
        self, log_id: uuid.UUID, *, after: PartKey, until: uuid.UUID, limit: int
    ) -> Sequence[OldPart]: ...
    async def old_entries(
        self, log_id: uuid.UUID, entry_type: str, *, after: tuple[datetime, int], until: datetime, limit: int
    ) -> Sequence[OldEntry]: ...
    async def kept(self, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, str]: ...


class Sweep:
    """One pass over a log, from the oldest on: contents first, then entries that have none left."""

    def __init__(self, store: SweepStore, removals: Removals, clock: Clock) -> None:
        self._store = store
        self._removals = removals
        self._clock = clock

    async def preview(
        self, log_id: uuid.UUID, rules: Rules
    ) -> tuple[Mapping[RetentionClass, ClassPreview], bool]:
        """What a sweep by these rules would remove and keep, and whether everything was looked at."""
        told = {each: ClassPreview() for each in RetentionClass}
        looked = 0
        async for piece in self._pieces(log_id, rules, self._clock.now()):
            for part in piece.due:
                counted = told[CLASSES[part.type]]
                counted.due += 1
                counted.oldest = min(counted.oldest or part.recorded_time, part.recorded_time)
            for part, keeper in piece.kept:
                counted = told[CLASSES[part.type]]
                counted.held += keeper.startswith("hold")
                counted.minimum += keeper.startswith("minimum")
            looked += PIECE
            if looked >= PREVIEWED:
                return told, False
        async for entries in self._entry_pieces(log_id, rules, self._clock.now()):
            for entry in entries.due:
                told[CLASSES[entry.type]].entries_due += 1
            for entry in entries.kept:
                told[CLASSES[entry.type]].entries_kept += 1
            looked += PIECE
            if looked >= PREVIEWED:
                return told, False
        return told, True

    async def run(self) -> int:
        """Remove what is overdue of all logs; how much went, of logs swept to the end."""
        removed = 0
        waiting: list[datetime] = []
        for name in await self._store.logs_with_rules():
            try:
                removed += await self._sweep(name, waiting)
            except DomainError as error:
                # The next log is not to blame, and the next sweep begins with the oldest again.
                log.warning("retention_sweep_failed", tenant=name.tenant, error=str(error))
        OLDEST.set((self._clock.now() - min(waiting)).total_seconds() if waiting else 0)
        return removed

    async def _sweep(self, name: LogName, waiting: list[datetime]) -> int:
        """`waiting` takes since when what is about to go is overdue, until it is gone."""
        rules = await self._store.rules(name.log_id)
        removed = 0
        async for piece in self._pieces(name.log_id, rules, self._clock.now()):
            if not piece.due:
                continue
            since = [rules[CLASSES[each.type]].overdue_since(each.recorded_time) for each in piece.due]
            oldest = min(when for when in since if when is not None)
            async with self._turn(oldest, waiting):
                await self._removals.remove(
                    name.tenant,
                    [PlacedPart(part.event_id, part.leaf_index, part.part) for part in piece.due],
                    kind="RETENTION",
                    actor="",
                    attributes=_counts(piece.due, "parts"),
                )
            removed += len(piece.due)
            REMOVED.inc(len(piece.due))
        async for entries in self._entry_pieces(name.log_id, rules, self._clock.now()):
            if not entries.due:
                continue
            oldest = min(
                rules[CLASSES[each.type]].entry_overdue_since(each.recorded_time) for each in entries.due
            )
            async with self._turn(oldest, waiting):
                await self._removals.remove_entries(
                    name.tenant,
                    [PlacedEntry(each.event_id, each.leaf_index) for each in entries.due],
                    attributes=_counts(entries.due, "entries"),
                )
            removed += len(entries.due)
            ENTRIES_REMOVED.inc(len(entries.due))
        return removed

    @asynccontextmanager
    async def _turn(self, oldest: datetime, waiting: list[datetime]) -> AsyncIterator[None]:
        """For one removal, of what has been overdue since `oldest`."""
        waiting.append(oldest)
        OLDEST.set((self._clock.now() - min(waiting)).total_seconds())
        began = self._clock.monotonic()
        yield
        waiting.remove(oldest)
        # Three quarters of the time the log belongs to those who append.
        await asyncio.sleep((self._clock.monotonic() - began) * _PAUSE)

    async def _pieces(self, log_id: uuid.UUID, rules: Rules, now: datetime) -> AsyncIterator[Piece]:
        before = overdue_before(rules, now=now)
        if before is None:
            return
        after, until = PartKey(uuid.UUID(int=0), ""), _id_at(before + _CLOCKS)
        while old := await self._store.old_parts(log_id, after=after, until=until, limit=PIECE):
            after = PartKey(old[-1].event_id, old[-1].part)
            ended = [part for part in old if overdue(part.type, part.recorded_time, rules, now=now)]
            kept = await self._store.kept(log_id, list({part.event_id for part in ended}))
            yield Piece(
                due=[part for part in ended if part.event_id not in kept],
                kept=[(part, kept[part.event_id]) for part in ended if part.event_id in kept],
            )

    async def _entry_pieces(
        self, log_id: uuid.UUID, rules: Rules, now: datetime
    ) -> AsyncIterator[EntryPiece]:
        for entry_type, until in entries_overdue_before(rules, now=now).items():
            after = (_BEGINNING, -1)
            while old := await self._store.old_entries(
                log_id, entry_type, after=after, until=until, limit=PIECE
            ):
                after = (old[-1].recorded_time, old[-1].leaf_index)
                kept = await self._store.kept(log_id, [entry.event_id for entry in old])
                yield EntryPiece(
                    due=[entry for entry in old if entry.event_id not in kept],
                    kept=[entry for entry in old if entry.event_id in kept],
                )


class RetentionSweeper:
    """Sweeps at its start and every ten minutes, in one process of all replicas."""

    def __init__(self, database: Database, sweep: Sweep, *, interval: float = INTERVAL_SECONDS) -> None:
        self._sweep = sweep
        self._interval = interval
        self._leader = Leader(database, "audit retention", self._keep_sweeping)

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        await self._leader.run()

    async def _keep_sweeping(self) -> None:
        try:
            while True:
                await self._once()
                await asyncio.sleep(self._interval)
        finally:
            # Whoever leads next measures it.
            OLDEST.set(0)

    async def _once(self) -> None:
        try:
            removed = await self._sweep.run()
        except DomainError as error:
            log.warning("retention_sweep_failed", error=str(error))
        else:
            if removed:
                log.info("retention_swept", removed=removed)


def _counts(removed: Sequence[OldPart] | Sequence[OldEntry], what: str) -> dict[str, str]:
    counts: dict[str, int] = {}
    for each in removed:
        name = f"{CLASSES[each.type].lower()}_{what}"
        counts[name] = counts.get(name, 0) + 1
    return {name: str(count) for name, count in counts.items()}


def _id_at(when: datetime) -> uuid.UUID:
    """The least id of that time."""
    return uuid.UUID(int=nanoseconds(when) // 1_000_000 << 80)
