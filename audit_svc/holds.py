"""Legal holds: what must not go, whatever a policy or a person asks for."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.errors import hold_not_found
from audit_svc.event import NewEvent, Part, nanoseconds
from audit_svc.log import AuditLog
from audit_svc.sequence import LogName, NewEntry
from interlock.verify.gaps import PRODUCER
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.ids import uuid7


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which entries: those that fulfil all that is given; what is empty selects anything."""

    task_id: uuid.UUID | None = None
    agent: str = ""
    actor: str = ""
    """A subject when it is asked for, its pseudonym when it is stored."""
    type: str = ""
    begin_time: datetime | None = None
    end_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """How a hold ended."""

    event_id: uuid.UUID
    reason: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold; its id is the event id of the entry that placed it."""

    hold_id: uuid.UUID
    selector: Selector
    reason: str
    place_time: datetime
    release: Release | None = None


class HoldStore(Protocol):
    """What holds need of the database; see the store for what each does."""

    async def add(self, connection: AsyncConnection, log_id: uuid.UUID, hold: Hold) -> None: ...
    async def release(
        self, connection: AsyncConnection, log_id: uuid.UUID, hold_id: uuid.UUID, release: Release
    ) -> bool: ...
    async def hold(self, log_id: uuid.UUID, hold_id: uuid.UUID) -> Hold | None: ...
    async def holds(
        self, log_id: uuid.UUID, *, before: uuid.UUID | None, released: bool, limit: int
    ) -> Sequence[Hold]: ...


class Keepers(Protocol):
    """Knows what keeps contents."""

    async def kept(self, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, str]: ...


class Names(Protocol):
    """Finds logs, and who is called what in them."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def pseudonym(self, log_id: uuid.UUID, subject: str) -> str | None: ...


class _ReleasedBeforeError(Exception):
    """Somebody was faster; nothing is recorded twice."""


class Holds:
    """Places and releases holds, each in one transaction with its entry, and says what is held."""

    def __init__(self, log: AuditLog, names: Names, store: HoldStore, keepers: Keepers, clock: Clock) -> None:
        self._log = log
        self._names = names
        self._store = store
        self._keepers = keepers
        self._clock = clock

    async def held(self, tenant: str, event_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]:
        """Those of these events whose contents may not go now, by what keeps them.

        That is `hold ID`, or `minimum DAYS` where a policy's minimum is not over. Whatever is removed all the
        same is refused by the database, also what is held between this answer and the removal.
        """
        name = await self._names.log_of(tenant)
        return await self._keepers.kept(name.log_id, list(event_ids)) if name is not None else {}

    async def place(self, tenant: str, selector: Selector, *, reason: str, actor: str) -> Hold:
        """Hold what `selector` selects, from now on."""
        if selector.actor:
            selector = replace(selector, actor=await self._pseudonym(tenant, selector.actor))
        now = self._clock.now()
        hold = Hold(hold_id=uuid7(), selector=selector, reason=reason, place_time=now)

        async def store(connection: AsyncConnection, told: NewEntry) -> None:
            await self._store.add(connection, told.log_id, hold)

        event = self._event(
            tenant, hold.hold_id, "PLACED", reason=reason, actor=actor, attributes=_attributes(selector)
        )
        await self._log.append_with(event, store)
        return hold

    async def release(self, tenant: str, hold_id: uuid.UUID, *, reason: str, actor: str) -> Hold:
        """End a hold; one that was released before stays as it is."""
        hold = await self._existing(tenant, hold_id)
        if hold.release is not None:
            return hold
        release = Release(event_id=uuid7(), reason=reason, time=self._clock.now())

        async def store(connection: AsyncConnection, told: NewEntry) -> None:
            if not await self._store.release(connection, told.log_id, hold_id, release):
                raise _ReleasedBeforeError

        event = self._event(
            tenant,
            release.event_id,
            "RELEASED",
            reason=reason,
            actor=actor,
            attributes={"hold_id": str(hold_id)},
        )
        try:
            await self._log.append_with(event, store)
        except _ReleasedBeforeError:
            return await self._existing(tenant, hold_id)
        return replace(hold, release=release)

    async def page(
        self, tenant: str, *, before: uuid.UUID | None, released: bool, limit: int
    ) -> Sequence[Hold]:
        """Holds older than one, the newest first."""
        name = await self._names.log_of(tenant)
        if name is None:
            return ()
        return await self._store.holds(name.log_id, before=before, released=released, limit=limit)

    async def _existing(self, tenant: str, hold_id: uuid.UUID) -> Hold:
        name = await self._names.log_of(tenant)
        hold = await self._store.hold(name.log_id, hold_id) if name is not None else None
        if hold is None:
            raise hold_not_found(hold_id)
        return hold

    async def _pseudonym(self, tenant: str, subject: str) -> str:
        name = await self._names.log_of(tenant)
        pseudonym = await self._names.pseudonym(name.log_id, subject) if name is not None else None
        if pseudonym is None:
            raise invalid([Violation("selector.actor", "has caused nothing in this log: check the subject")])
        return pseudonym

    def _event(
        self,
        tenant: str,
        event_id: uuid.UUID,
        status: str,
        *,
        reason: str,
        actor: str,
        attributes: Mapping[str, str],
    ) -> NewEvent:
        return NewEvent(
            event_id=event_id,
            tenant=tenant,
            producer=PRODUCER,
            type="HOLD",
            event_time=nanoseconds(self._clock.now()),
            actor=actor,
            status=status,
            attributes=attributes,
            parts=(Part(name="reason", content_type="text/plain", body=reason.encode()),),
        )


def _attributes(selector: Selector) -> dict[str, str]:
    """What is held, as the entry has it: a pseudonym for a person, like everywhere in leaves."""
    told = {
        "task": str(selector.task_id or ""),
        "agent": selector.agent,
        "actor": selector.actor,
        "type": selector.type,
        "begin_time": selector.begin_time.isoformat() if selector.begin_time else "",
        "end_time": selector.end_time.isoformat() if selector.end_time else "",
    }
    return {f"selected_{name}": value for name, value in told.items() if value}
