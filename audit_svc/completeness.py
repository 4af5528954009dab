"""What the log has not received: producers leave no number out, so a gap is a loss, or a delay."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

import structlog
from prometheus_client import Gauge

from svc_kit import metrics
from svc_kit.advisory import Leader
from svc_kit.clock import Clock
from svc_kit.database import Database
from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

# So many numbers of a producer are looked at together.
_SLICE = 10_000
_INTERVAL_SECONDS = 5.0
MAX_GAPS = 100
"""So many gaps are told of a producer; the count says how many numbers are missing in all."""

MISSING = Gauge(
    metrics.AUDIT_MISSING_EVENTS, "Events that a producer has numbered and the log has not.", ["producer"]
)
OLDEST = Gauge(
    metrics.AUDIT_OLDEST_GAP_SECONDS,
    "Seconds since the log heard of what follows a producer's first gap; 0 without one.",
    ["producer"],
)


class Gap(NamedTuple):
    """Numbers that are missing, both ends included."""

    first: int
    last: int


class Received(NamedTuple):
    """A number that the log holds, and when it took that event in."""

    sequence: int
    recorded_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A producer; every number up to `complete_to` has been received."""

    producer: str
    complete_to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completeness:
    """What is there of a producer, and what is not; `gap_time` is when the first gap became one."""

    producer: str
    complete_to: int
    highest: int
    last_time: datetime | None
    missing: int
    gaps: tuple[Gap, ...]
    gap_time: datetime | None


class ProgressStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def producers(self) -> Sequence[str]: ...
    async def progress(self) -> Sequence[Progress]: ...
    async def received(self, producer: str, *, after: int, limit: int) -> Sequence[Received]: ...
    async def newest(self, producer: str) -> Received | None: ...
    async def advance(self, producer: str, complete_to: int) -> None: ...


class CompletenessReport:
    """Computes what is missing from the numbers above those that are known to be complete."""

    def __init__(self, store: ProgressStore) -> None:
        self._store = store

    async def all(self) -> list[Completeness]:
        """Every producer that numbers its events, by name."""
        known = {each.producer: each.complete_to for each in await self._store.progress()}
        # Of one that told nothing for long all entries may be gone.
        producers = sorted({*known, *await self._store.producers()})
        return [await self._of(producer, known.get(producer, 0)) for producer in producers]

    async def _of(self, producer: str, complete_to: int) -> Completeness:
        gaps: list[Gap] = []
        missing, gap_time, place = 0, None, complete_to
        async for received in self._after(producer, complete_to):
            if received.sequence == place + 1 and not gaps:
                complete_to = received.sequence
            elif received.sequence > place + 1:
                missing += received.sequence - place - 1
                gap_time = gap_time or received.recorded_time
                if len(gaps) < MAX_GAPS:
                    gaps.append(Gap(place + 1, received.sequence - 1))
            place = received.sequence
        newest = await self._store.newest(producer)
        return Completeness(
            producer=producer,
            complete_to=complete_to,
            highest=place,
            last_time=newest.recorded_time if newest is not None else None,
            missing=missing,
            gaps=tuple(gaps),
            gap_time=gap_time,
        )

    async def _after(self, producer: str, place: int) -> AsyncIterator[Received]:
        while True:
            found = await self._store.received(producer, after=place, limit=_SLICE)
            for each in found:
                yield each
            if len(found) < _SLICE:
                return
            place = found[-1].sequence


class CompletenessWatch:
    """Remembers how far each producer is complete, so that nobody has to count from the first number on."""

    def __init__(
        self, database: Database, store: ProgressStore, report: CompletenessReport, clock: Clock
    ) -> None:
        self._store = store
        self._report = report
        self._clock = clock
        self._leader = Leader(database, "audit completeness", self._watch)

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        await self._leader.run()

    async def look(self) -> None:
        """Once: bring what is remembered up to date, and the metrics with it."""
        known = {each.producer: each.complete_to for each in await self._store.progress()}
        for each in await self._report.all():
            if each.complete_to > known.get(each.producer, 0):
                await self._store.advance(each.producer, each.complete_to)
            MISSING.labels(each.producer).set(each.missing)
            since = (self._clock.now() - each.gap_time).total_seconds() if each.gap_time else 0.0
            OLDEST.labels(each.producer).set(max(0.0, since))

    async def _watch(self) -> None:
        try:
            while True:
                try:
                    await self.look()
                except Unavailable:
                    pass  # the database says so itself, once
                except Exception:
                    log.exception("completeness_unknown")
                await asyncio.sleep(_INTERVAL_SECONDS)
        finally:
            # Whoever leads next measures it.
            MISSING.clear()
            OLDEST.clear()
