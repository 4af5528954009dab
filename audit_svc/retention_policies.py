"""The retention policy of a tenant: each change is an entry of its log, in the same transaction."""

import uuid
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.errors import retention_locked
from audit_svc.event import NewEvent, nanoseconds
from audit_svc.log import AuditLog
from audit_svc.retention import KEEP_FOR_EVER, Rules, may_follow
from audit_svc.sequence import LogName, NewEntry
from interlock.verify.gaps import PRODUCER
from svc_kit.clock import Clock
from svc_kit.ids import uuid7


class PolicyStore(Protocol):
    """What policies need of the database."""

    async def rules(self, log_id: uuid.UUID) -> Rules: ...
    async def rules_in(self, connection: AsyncConnection, log_id: uuid.UUID) -> Rules: ...
    async def add_rules(
        self,
        connection: AsyncConnection,
        log_id: uuid.UUID,
        rules: Rules,
        *,
        leaf_index: int,
        update_time: datetime,
    ) -> None: ...


class LogNames(Protocol):
    """Finds logs."""

    async def log_of(self, tenant: str) -> LogName | None: ...


class RetentionPolicies:
    """What is kept for how long."""

    def __init__(self, log: AuditLog, logs: LogNames, store: PolicyStore, clock: Clock) -> None:
        self._log = log
        self._logs = logs
        self._store = store
        self._clock = clock

    async def get(self, tenant: str) -> Rules:
        """What holds for every class."""
        name = await self._logs.log_of(tenant)
        return await self._store.rules(name.log_id) if name is not None else KEEP_FOR_EVER

    async def put(self, tenant: str, rules: Rules, *, actor: str) -> Rules:
        """Put rules in the place of those of their classes; answers what holds then for every class.

        Raises FailedPrecondition RETENTION_LOCKED, and then nothing changed.
        """
        now = self._clock.now()

        async def store(connection: AsyncConnection, told: NewEntry) -> None:
            # Read while the log's head is locked: nobody else changes them now.
            held = await self._store.rules_in(connection, told.log_id)
            refused = [each for each, rule in rules.items() if not may_follow(held[each], rule)]
            if refused:
                raise retention_locked(refused[0])
            index = told.placed.index
            await self._store.add_rules(connection, told.log_id, rules, leaf_index=index, update_time=now)

        attributes = {
            f"{each.lower()}_{name}": value
            for each, rule in rules.items()
            for name, value in (
                ("min_days", str(rule.payload_min_days)),
                ("max_days", str(rule.payload_max_days)),
                ("entry_max_days", str(rule.entry_max_days)),
                ("locked", str(rule.locked).lower()),
            )
        }
        told = NewEvent(
            event_id=uuid7(),
            tenant=tenant,
            producer=PRODUCER,
            type="RETENTION",
            event_time=nanoseconds(now),
            actor=actor,
            status="POLICY_SET",
            attributes=attributes,
        )
        await self._log.append_with(told, store)
        return await self.get(tenant)
