"""Following a log: its entries in order, as they come, from any index on."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.event import StoredEntry
from audit_svc.search import by_pseudonym
from audit_svc.sequence import LogName
from svc_kit.clock import Clock
from svc_kit.errors import Unavailable, Violation, invalid
from svc_kit.filters import Condition

# One question for all logs and all followers of this process.
_POLL_SECONDS = 0.1
# Of a log, so many are looked through for one message; leaves are at most 8 KiB.
_ENTRIES_AT_A_TIME = 256
BOOKMARK_SECONDS = 10.0
_CHECKPOINT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """What came: entries that fit, where to go on, and a checkpoint once all of it has been sent."""

    entries: tuple[StoredEntry, ...]
    next_index: int
    checkpoint: SignedCheckpoint | None = None


class TailStore(Protocol):
    """What following needs of the database."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None: ...
    async def sizes(self) -> Mapping[str, int]: ...
    async def entries_in_order(
        self, log_id: uuid.UUID, conditions: Sequence[Condition], begin: int, end: int
    ) -> Sequence[StoredEntry]: ...


class Heads:
    """How far all logs are, looked up again and again while somebody follows one."""

    def __init__(self, store: TailStore) -> None:
        self._store = store
        self._sizes: Mapping[str, int] = {}
        self._followers = 0
        self._wanted = asyncio.Event()
        self._looked = asyncio.Condition()

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        while True:
            await self._wanted.wait()
            try:
                sizes = await self._store.sizes()
            except Unavailable:
                sizes = self._sizes  # the database says so itself, once
            async with self._looked:
                self._sizes = sizes
                self._looked.notify_all()
            await asyncio.sleep(_POLL_SECONDS)

    async def beyond(self, tenant: str, size: int, *, seconds: float) -> int:
        """The size of a tenant's log once it is over `size`, or what it is after so many seconds."""
        self._followers += 1
        self._wanted.set()
        try:
            async with asyncio.timeout(seconds), self._looked:
                await self._looked.wait_for(lambda: self._sizes.get(tenant, 0) > size)
        except TimeoutError:
            pass
        finally:
            self._followers -= 1
            if not self._followers:
                self._wanted.clear()
        return self._sizes.get(tenant, 0)


class Tail:
    """Follows a log for each who asks; nobody waits for another, and nothing is kept for anybody."""

    def __init__(self, store: TailStore, heads: Heads, checkpoints: Checkpoints, clock: Clock) -> None:
        self._store = store
        self._heads = heads
        self._checkpoints = checkpoints
        self._clock = clock

    async def follow(
        self, tenant: str, conditions: Sequence[Condition], *, begin: int, from_now: bool
    ) -> AsyncIterator[Followed]:
        """For ever, from `begin` on, or from what comes next; INVALID_FIELDS for a place beyond the log."""
        size = (await self._checkpoints.newest(tenant)).checkpoint.size
        if begin > size:
            raise invalid([Violation("begin", f"must be at most {size}, the size of the log")])
        place = size if from_now else begin
        # Where it begins is known before anything comes.
        yield Followed(entries=(), next_index=place)
        signed_at = float("-inf")
        asked: Sequence[Condition] | None = None
        while True:
            while place < size:
                end = min(place + _ENTRIES_AT_A_TIME, size)
                entries: Sequence[StoredEntry] = ()
                name = await self._store.log_of(tenant)
                if name is not None:
                    # Somebody may have done something for the first time since.
                    asked = await by_pseudonym(self._store, name, conditions)
                    if asked is not None:
                        entries = await self._store.entries_in_order(name.log_id, asked, place, end)
                place = end
                if entries:
                    yield Followed(entries=tuple(entries), next_index=place)
            now = self._clock.monotonic()
            if now - signed_at >= _CHECKPOINT_SECONDS:
                signed_at = now
                signed = await self._checkpoints.newest(tenant)
                yield Followed(entries=(), next_index=place, checkpoint=signed)
            size = await self._heads.beyond(tenant, place, seconds=BOOKMARK_SECONDS)
