"""Worker sessions and their leases, by the database's clock."""

import json
import uuid
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.lapses import Lapses
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import AttemptRef, LiveAttempt, LockedTask, Session
from orchestrator_svc.store.rows import LOCKED_COLUMNS, AnyRow, to_locked
from orchestrator_svc.store.write import write_changes
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database

_SLOT = sa.text(
    "SELECT *, end_time IS NOT NULL AS ended FROM worker_session"
    " WHERE session_id = :session_id OR (subject = :subject AND slot = :slot AND end_time IS NULL)"
    " ORDER BY session_id FOR UPDATE"
)
# A process that was told to take nothing more has been told so under its next session too.
_OPEN = sa.text(
    "INSERT INTO worker_session (session_id, subject, slot, incarnation, pools, capacity, start_time,"
    " lease_until, serves, draining) VALUES (:session_id, :subject, :slot, :incarnation,"
    " CAST(:pools AS jsonb), :capacity, now(), clock_timestamp() + make_interval(secs => :lease),"
    " CAST(:serves AS jsonb), EXISTS (SELECT FROM worker_session WHERE subject = :subject AND slot = :slot"
    " AND incarnation = :incarnation AND draining AND end_time IS NULL))"
    " ON CONFLICT (session_id) DO UPDATE SET lease_until = excluded.lease_until, pools = excluded.pools,"
    " capacity = excluded.capacity, serves = excluded.serves"
)
# A lease that ran out while nobody ended the session (this service was away) is good again.
_RENEW = sa.text(
    "UPDATE worker_session SET lease_until = clock_timestamp() + make_interval(secs => :lease)"
    " WHERE session_id = :session_id AND subject = :subject AND end_time IS NULL RETURNING session_id"
)
_EXPIRED = sa.text(
    "SELECT * FROM worker_session WHERE end_time IS NULL AND lease_until < clock_timestamp()"
    " ORDER BY session_id LIMIT :limit FOR UPDATE SKIP LOCKED"
)
_SILENT = sa.text(
    "SELECT * FROM worker_session WHERE session_id = :session_id AND end_time IS NULL"
    " AND lease_until < clock_timestamp() FOR UPDATE"
)
_LAPSES = sa.text(
    "SELECT count(*) AS open, count(*) FILTER (WHERE lease_until < clock_timestamp()) AS lapsed"
    " FROM worker_session WHERE end_time IS NULL"
)
_END = sa.text(
    "UPDATE worker_session SET end_time = clock_timestamp()"
    " WHERE session_id = ANY(CAST(:session_ids AS uuid[])) AND end_time IS NULL"
)
_ABOARD = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task"  # noqa: S608 - a list of our own
    " WHERE session_id = ANY(CAST(:session_ids AS uuid[])) ORDER BY task_id FOR UPDATE"
)
_ATTEMPTS = sa.text(
    "SELECT task_id, tenant, attempt, state, pausing,"
    " extract(epoch FROM clock_timestamp() - attempt.start_time)::float8 AS age"
    " FROM task JOIN attempt USING (task_id, tenant, attempt)"
    " WHERE task.session_id = :session_id AND task.session_id IS NOT NULL"
)


class SessionStore:
    """Sessions of worker processes; tasks are found by the session that runs them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction; lock order: sessions, tasks by id, the log."""
        return self._database.transaction()

    async def lock_slot(self, connection: AsyncConnection, session: Session) -> list[tuple[Session, bool]]:
        """The session itself and every open one of its slot, locked; each with whether it has ended."""
        parameters = {"session_id": session.session_id, "subject": session.subject, "slot": session.slot}
        rows = (await connection.execute(_SLOT, parameters)).all()
        return [(to_session(row), row.ended) for row in rows]

    async def open(self, connection: AsyncConnection, session: Session, lease: float) -> None:
        """Store the session, or renew it where it exists."""
        parameters = {
            "session_id": session.session_id,
            "subject": session.subject,
            "slot": session.slot,
            "incarnation": session.incarnation,
            "pools": json.dumps(list(session.pools)),
            "capacity": session.capacity,
            "lease": lease,
            "serves": json.dumps([{"tenant": tenant, "pool": pool} for tenant, pool in session.serves]),
        }
        await connection.execute(_OPEN, parameters)

    @undisturbed
    async def renew(self, session_id: uuid.UUID, subject: str, lease: float) -> bool:
        """Renew the lease; False when the session has ended or is another worker's."""
        parameters = {"session_id": session_id, "subject": subject, "lease": lease}
        async with self._database.autocommit() as connection:
            return (await connection.execute(_RENEW, parameters)).one_or_none() is not None

    @undisturbed
    async def attempts(self, session_id: uuid.UUID) -> dict[AttemptRef, LiveAttempt]:
        """Every live attempt of the session."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_ATTEMPTS, {"session_id": session_id})).all()
        return {
            AttemptRef(tenant=row.tenant, task_id=row.task_id, attempt=row.attempt): LiveAttempt(
                state=TaskState(row.state), age=row.age, pausing=row.pausing
            )
            for row in rows
        }

    @undisturbed
    async def lapses(self) -> Lapses:
        """How many sessions are open, and the lease of how many of them has run out."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_LAPSES)).one()
        return Lapses(open=row.open, lapsed=row.lapsed)

    async def lock_expired(self, connection: AsyncConnection, limit: int) -> list[Session]:
        """Open sessions whose lease ran out, locked."""
        return [to_session(row) for row in (await connection.execute(_EXPIRED, {"limit": limit})).all()]

    async def lock_silent(self, connection: AsyncConnection, session_id: uuid.UUID) -> Session | None:
        """An open session whose lease ran out, locked."""
        row = (await connection.execute(_SILENT, {"session_id": session_id})).one_or_none()
        return to_session(row) if row is not None else None

    async def end(self, connection: AsyncConnection, session_ids: Collection[uuid.UUID]) -> list[LockedTask]:
        """End locked sessions; the tasks that were aboard, locked in the order of their ids."""
        parameters = {"session_ids": list(session_ids)}
        await connection.execute(_END, parameters)
        return [to_locked(row) for row in (await connection.execute(_ABOARD, parameters)).all()]

    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
        """Write what became of the tasks; the last statement of the transaction."""
        await write_changes(connection, accepted)


def to_session(row: AnyRow) -> Session:
    """From a row of `worker_session`."""
    return Session(
        session_id=row.session_id,
        subject=row.subject,
        slot=row.slot,
        incarnation=row.incarnation,
        pools=tuple(row.pools),
        capacity=row.capacity,
    )
