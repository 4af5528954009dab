"""Changing the key that signs checkpoints: an entry in every log, in which the old key names the new one."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.event import NewEvent, nanoseconds
from audit_svc.key_store import ChangedBeforeError, KeyChange, KeyStore, LogBehind, SigningKey
from audit_svc.log import AuditLog
from audit_svc.sequence import LogName, NewEntry
from audit_svc.signer import CheckpointSigner
from interlock.verify.note import NoteKey
from interlock.verify.rotation import NEW_KEY, OLD_KEY, PRODUCER, SIGNATURE, TYPE, rotation_text
from svc_kit.clock import Clock
from svc_kit.ids import uuid7

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldChange:
    """A change of a log's key, and the entry that tells of it."""

    change: KeyChange
    old: NoteKey
    new: NoteKey


class Names(Protocol):
    """Finds logs."""

    async def log_of(self, tenant: str) -> LogName | None: ...


class KeyRotation:
    """Begun once, carried out log by log: whoever is interrupted, or another replica, goes on."""

    def __init__(
        self, audit_log: AuditLog, names: Names, store: KeyStore, signer: CheckpointSigner, clock: Clock
    ) -> None:
        self._log = audit_log
        self._names = names
        self._store = store
        self._signer = signer
        self._clock = clock

    async def rotate(self, requester: str) -> tuple[int, int]:
        """(number of a new key, how many logs were told of it); every log has it when this returns."""
        newest = await self._store.newest()
        number = newest.number + 1 if newest is not None else 2
        # The file first: a key that the database knows of is there to be used.
        await self._store.add(SigningKey(number, self._signer.make(number), requester))
        return number, await self.complete()

    async def complete(self) -> int:
        """Tell the logs that have an earlier key than the newest; how many that were."""
        newest = await self._store.newest()
        if newest is None:
            return 0
        if self._signer.make(newest.number) != newest.public_key:
            raise FileNotFoundError(f"the file of key number {newest.number} holds another key")
        behind = await self._store.behind(newest.number)
        for each in behind:
            await self._tell(each, newest)
        return len(behind)

    async def changes(self, tenant: str) -> Sequence[ToldChange]:
        """Those of a tenant's log, in their order."""
        name = await self._names.log_of(tenant)
        if name is None:
            return []
        told = []
        changes = await self._store.changes(name.log_id)
        first = name.first_key
        for change in changes:
            old = self._signer.key(name.origin, first)
            told.append(ToldChange(change=change, old=old, new=self._signer.key(name.origin, change.number)))
            first = change.number
        return told

    async def _tell(self, behind: LogBehind, newest: SigningKey) -> None:
        name = behind.name
        old = self._signer.key(name.origin, behind.number)
        new = self._signer.key(name.origin, newest.number)
        signature = self._signer.sign(rotation_text(old, new), behind.number)

        async def change(connection: AsyncConnection, told: NewEntry) -> None:
            changed = KeyChange(told.placed.index, told.event.event_id, newest.number)
            await self._store.change(connection, name.log_id, changed)

        event = NewEvent(
            event_id=uuid7(),
            tenant=name.tenant,
            producer=PRODUCER,
            type=TYPE,
            event_time=nanoseconds(self._clock.now()),
            actor=newest.requester,
            status="ROTATED",
            attributes={
                OLD_KEY: str(old),
                NEW_KEY: str(new),
                SIGNATURE: base64.b64encode(signature).decode(),
            },
        )
        try:
            await self._log.append_with(event, change)
        except ChangedBeforeError:
            return
        log.info("key_changed", origin=name.origin, number=newest.number)
