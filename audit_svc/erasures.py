"""Erasures: begun on somebody's word, and carried out over every service that keeps something."""

import asyncio
import contextlib
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.erasure import Erasure, ErasureState, Selector
from audit_svc.erasure_store import note_removed
from audit_svc.errors import entry_not_found, erasure_not_found, erasure_request_reused
from audit_svc.removal_store import PlacedPart
from audit_svc.removals import MAX_PARTS, Removals, Removed
from audit_svc.sequence import LogName
from audit_svc.task_keepers import KeeperAwayError, TaskKeeper
from svc_kit.advisory import Leader
from svc_kit.clock import Clock
from svc_kit.database import Database
from svc_kit.errors import DomainError, FailedPrecondition, Unavailable
from svc_kit.ids import uuid7

log = structlog.get_logger(__name__)

_OPEN_AT_A_TIME = 100
PIECE = 200
"""So many contents go at a time: who appends waits for no more than that."""
# Above this a file that the log still grows into is left for later: nothing can be appended meanwhile.
MOST_BYTES = 256 * 1024 * 1024


class ErasureStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def begin(self, new: Erasure) -> Erasure: ...
    async def find(self, log_id: uuid.UUID, erasure_id: uuid.UUID) -> Erasure | None: ...
    async def page(
        self, log_id: uuid.UUID, *, after: tuple[datetime, uuid.UUID] | None, limit: int
    ) -> Sequence[Erasure]: ...
    async def open(self, *, after: datetime | None, limit: int) -> Sequence[Erasure]: ...
    async def stands(self, log_id: uuid.UUID, request_id: uuid.UUID | None) -> Erasure | None: ...
    async def named(self, log_id: uuid.UUID, pseudonym: str) -> bool: ...
    async def knows(self, log_id: uuid.UUID, selector: Selector) -> bool: ...
    async def parts(self, log_id: uuid.UUID, selector: Selector, *, limit: int) -> Sequence[PlacedPart]: ...
    async def wait(self, erasure_id: uuid.UUID, what: str) -> None: ...
    async def reached(self, erasure_id: uuid.UUID, rows: Sequence[tuple[str, int]]) -> None: ...
    async def erased(self, erasure_id: uuid.UUID, now: datetime) -> None: ...
    async def rewrite(self, file: str, *, most_bytes: int) -> bool: ...
    async def rewritten(self, erasure_id: uuid.UUID, left: Sequence[str], *, waiting_for: str) -> None: ...
    async def complete(self, erasure_id: uuid.UUID, now: datetime) -> None: ...


class LogStore(Protocol):
    """What is asked of the log's store."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None: ...


class ContentHolds(Protocol):
    """Knows what may not go now."""

    async def held(self, tenant: str, event_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]: ...


class Erasures:
    """What callers begin and read; the runner does the rest."""

    def __init__(self, store: ErasureStore, logs: LogStore, clock: Clock) -> None:
        self._store = store
        self._logs = logs
        self._clock = clock
        self.begun = asyncio.Event()
        """Set when there is something new to do."""

    async def begin(
        self, tenant: str, selector: Selector, *, reason: str, requester: str, request_id: uuid.UUID | None
    ) -> Erasure:
        """Write it down; raises ENTRY_NOT_FOUND where the log knows nothing of it, REQUEST_ID_REUSED."""
        name = await self._logs.log_of(tenant)
        if name is not None and selector.actor:
            asked = selector
            selector = await self._by_pseudonym(name, selector)
            if not selector.actor:
                # Forgotten since, it may be, at this very request.
                stands = await self._store.stands(name.log_id, request_id)
                if stands is not None and stands.selector.actor and stands.reason == reason:
                    return stands
                raise entry_not_found(_described(asked))
        new = Erasure(
            erasure_id=uuid7(),
            log_id=name.log_id if name else uuid.UUID(int=0),
            tenant=tenant,
            request_id=request_id,
            selector=selector,
            reason=reason,
            requester=requester,
            create_time=self._clock.now(),
        )
        if name is None or not (selector.actor or await self._store.knows(name.log_id, selector)):
            raise entry_not_found(_described(selector))
        stands = await self._store.begin(new)
        if (stands.selector, stands.reason) != (selector, reason):
            raise erasure_request_reused(request_id)
        self.begun.set()
        return stands

    async def _by_pseudonym(self, name: LogName, selector: Selector) -> Selector:
        pseudonym = await self._logs.pseudonym(name.log_id, selector.actor)
        return replace(selector, actor=pseudonym or "")

    async def get(self, tenant: str, erasure_id: uuid.UUID) -> Erasure:
        """One of the tenant's; raises ERASURE_NOT_FOUND."""
        name = await self._logs.log_of(tenant)
        found = await self._store.find(name.log_id, erasure_id) if name is not None else None
        if found is None:
            raise erasure_not_found(erasure_id)
        return found

    async def page(
        self, tenant: str, *, after: tuple[datetime, uuid.UUID] | None, limit: int
    ) -> Sequence[Erasure]:
        """The tenant's, the newest first."""
        name = await self._logs.log_of(tenant)
        return await self._store.page(name.log_id, after=after, limit=limit) if name is not None else []


class ErasureRunner:
    """Carries out what was begun, in one process of all replicas; every step can be done twice."""

    def __init__(
        self,
        database: Database,
        store: ErasureStore,
        removals: Removals,
        keepers: Sequence[TaskKeeper],
        clock: Clock,
        *,
        holds: ContentHolds,
        begun: asyncio.Event,
        interval: float = 1.0,
    ) -> None:
        self._store = store
        self._removals = removals
        self._keepers = keepers
        self._holds = holds
        self._clock = clock
        self._begun = begun
        self._behind: datetime | None = None
        self._interval = interval
        self._leader = Leader(database, "audit erasures", self._work)

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        await self._leader.run()

    async def once(self) -> None:
        """Bring what is open as far as it goes now: so many at a time, each in its turn."""
        found = await self._store.open(after=self._behind, limit=_OPEN_AT_A_TIME)
        self._behind = found[-1].create_time if len(found) == _OPEN_AT_A_TIME else None
        for erasure in found:
            try:
                if erasure.state is ErasureState.RUNNING:
                    held_up = await self._erase(erasure)
                    if held_up:
                        await self._store.wait(erasure.erasure_id, held_up)
                        continue
                    await self._store.erased(erasure.erasure_id, self._clock.now())
                    log.info("contents_erased", erasure_id=str(erasure.erasure_id), tenant=erasure.tenant)
                await self._rewrite(erasure)
            except Unavailable:
                raise
            except DomainError as error:
                # One that fails holds up no other.
                log.warning("erasure_held_up", erasure_id=str(erasure.erasure_id), error=error.message)
            except Exception:
                log.exception("erasure_failed", erasure_id=str(erasure.erasure_id))

    async def _work(self) -> None:
        while True:
            self._begun.clear()
            # The database says by itself when it is away, once.
            with contextlib.suppress(Unavailable):
                await self.once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._begun.wait()

    async def _erase(self, erasure: Erasure) -> str:
        """What holds it up; empty when nothing of it is left.

        The log comes last: until the others have erased, they may have something to tell it.
        """
        selector = erasure.selector
        if selector.actor:
            return await self._forget(erasure)
        # Before anybody erases: what is held here is evidence elsewhere too.
        parts = await self._store.parts(erasure.log_id, selector, limit=MAX_PARTS)
        kept = await self._holds.held(erasure.tenant, {part.event_id for part in parts})
        if kept:
            return f"a content is kept by {next(iter(kept.values()))}"
        if selector.task_id is not None:
            for keeper in self._keepers:
                try:
                    told = await keeper.erase(erasure.tenant, [selector.task_id])
                except KeeperAwayError as error:
                    return str(error)
                if told.running:
                    return f"the task has not ended, says the {keeper.name}"
                if told.undelivered:
                    return f"the {keeper.name} has not yet told the log everything of the task"
                rows = [(f"{keeper.name}.{table}", count) for table, count in told.erased if count]
                if rows:
                    await self._store.reached(erasure.erasure_id, rows)
        while parts := await self._store.parts(erasure.log_id, selector, limit=PIECE):
            began = self._clock.monotonic()
            await self._remove(erasure, parts)
            # In between, the log belongs to those who append.
            await asyncio.sleep(self._clock.monotonic() - began)
        return ""

    async def _remove(self, erasure: Erasure, parts: Sequence[PlacedPart]) -> None:
        async def journal(connection: AsyncConnection, removed: Removed) -> None:
            await note_removed(connection, erasure.erasure_id, "payload", removed)

        await self._removals.remove(
            erasure.tenant,
            parts,
            kind="ERASURE",
            actor=erasure.requester,
            attributes={"erasure_id": str(erasure.erasure_id)},
            reason=erasure.reason,
            task_id=erasure.selector.task_id,
            alongside=journal,
        )

    async def _forget(self, erasure: Erasure) -> str:
        async def journal(connection: AsyncConnection, removed: Removed) -> None:
            await note_removed(connection, erasure.erasure_id, "actor", removed)

        if await self._store.named(erasure.log_id, erasure.selector.actor):
            try:
                await self._removals.forget(
                    erasure.tenant,
                    erasure.selector.actor,
                    actor=erasure.requester,
                    attributes={"erasure_id": str(erasure.erasure_id)},
                    reason=erasure.reason,
                    alongside=journal,
                )
            except FailedPrecondition as error:
                return error.message
        return ""

    async def _rewrite(self, erasure: Erasure) -> None:
        found = await self._store.find(erasure.log_id, erasure.erasure_id)
        left = []
        for file in found.files if found is not None else ():
            if not await self._store.rewrite(file, most_bytes=MOST_BYTES):
                left.append(file)
        if left:
            said = f"{', '.join(left)}: in use, or too large to be written anew while the log grows into it"
            await self._store.rewritten(erasure.erasure_id, left, waiting_for=said)
        else:
            await self._store.complete(erasure.erasure_id, self._clock.now())


def _described(selector: Selector) -> str:
    if selector.task_id is not None:
        return f"of the task {selector.task_id}"
    if selector.actor:
        return f"by {selector.actor}"
    content = f" with a content {selector.part}" if selector.part else ""
    return f"with the event id {selector.event_id}{content}"
