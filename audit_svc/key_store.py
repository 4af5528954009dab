"""Which keys sign checkpoints, and from which entry on each log has which."""

import uuid
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from audit_svc.sequence import LogName
from svc_kit.database import Database

_NEWEST = sa.text("SELECT number, public_key, requester FROM signing_key ORDER BY number DESC LIMIT 1")
_ADD = sa.text(
    "INSERT INTO signing_key (number, public_key, requester) VALUES (:number, :public_key, :requester)"
    " ON CONFLICT DO NOTHING"
)
_BEHIND = sa.text(
    "SELECT log_id, tenant, origin, number FROM (SELECT log.log_id, tenant, origin,"
    " greatest(first_key, (SELECT max(number) FROM key_change"
    " WHERE key_change.log_id = log.log_id)) AS number"
    " FROM log) AS stands WHERE number < :newest ORDER BY tenant"
)
_CHANGE = sa.text(
    "INSERT INTO key_change (log_id, number, leaf_index, event_id)"
    " VALUES (:log_id, :number, :leaf_index, :event_id)"
)
_CHANGES = sa.text(
    "SELECT leaf_index, event_id, number FROM key_change WHERE log_id = :log_id ORDER BY number"
)


class SigningKey(NamedTuple):
    """A key that was made after the first one, and who asked for it."""

    number: int
    public_key: bytes
    requester: str


class LogBehind(NamedTuple):
    """A log whose newest key is not the newest of all."""

    name: LogName
    number: int


class KeyChange(NamedTuple):
    """The entry from which on a log's checkpoints are signed by the key of that number."""

    leaf_index: int
    event_id: uuid.UUID
    number: int


class ChangedBeforeError(Exception):
    """Another process has recorded this change of a log's key."""


class KeyStore:
    """Keys of all logs; rows are added, never changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self) -> SigningKey | None:
        """The newest key; None while the first one is."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_NEWEST)).one_or_none()
        return SigningKey(*row) if row is not None else None

    async def add(self, key: SigningKey) -> None:
        """Make it the newest; one of that number stays as it is."""
        async with self._database.autocommit() as connection:
            await connection.execute(_ADD, key._asdict())

    async def behind(self, newest: int) -> Sequence[LogBehind]:
        """The logs that have an earlier one."""
        async with self._database.autocommit() as connection:
            rows = await connection.execute(_BEHIND, {"newest": newest})
        return [LogBehind(LogName(log_id=r.log_id, tenant=r.tenant, origin=r.origin), r.number) for r in rows]

    async def change(self, connection: AsyncConnection, log_id: uuid.UUID, change: KeyChange) -> None:
        """In the transaction of the entry that tells of it; raises ChangedBeforeError."""
        try:
            await connection.execute(_CHANGE, {"log_id": log_id, **change._asdict()})
        except psycopg.errors.UniqueViolation as error:
            raise ChangedBeforeError from error

    async def changes(self, log_id: uuid.UUID) -> Sequence[KeyChange]:
        """A log's, in their order."""
        async with self._database.autocommit() as connection:
            return [KeyChange(*row) for row in await connection.execute(_CHANGES, {"log_id": log_id})]
