"""Dead letters, and what has been made of them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa

from orchestrator_svc import tables
from orchestrator_svc.records import RequestKey, Task
from orchestrator_svc.store.rows import to_task
from orchestrator_svc.store.tasks import listed, meets
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.advisory import lock_key
from svc_kit.database import Database
from svc_kit.filters import Condition

_ONE_AT_A_TIME = sa.text("SELECT pg_advisory_xact_lock(:key)")
_STEP = sa.text(
    "SELECT ordinal FROM task_step WHERE tenant = :tenant AND task_id = :task_id AND step_key = :step_key"
)
_INPUTS = sa.text(
    "SELECT task_id, input FROM task WHERE tenant = :tenant AND task_id = ANY(CAST(:task_ids AS uuid[]))"
)
_EARLIER = sa.text(
    "SELECT task_id, digest FROM idempotency WHERE tenant = :tenant AND subject = :subject"
    " AND method = :method ORDER BY task_id"
)


class RepeatStore:
    """Of one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Whoever waits for the lock holds a connection, which whoever has it needs: here, one at a time.
        self._one = asyncio.Lock()

    @asynccontextmanager
    async def alone(self, tenant: str) -> AsyncIterator[None]:
        """Nobody else redrives tasks of the tenant meanwhile."""
        async with self._one, self._database.transaction() as connection:
            await connection.execute(_ONE_AT_A_TIME, {"key": lock_key(f"interlock.redrive.{tenant}")})
            yield

    @undisturbed
    async def dead_letters(
        self, tenant: str, conditions: Sequence[Condition], *, limit: int
    ) -> list[tuple[Task, int]]:
        """Dead letters that nobody has repeated, oldest first, each with the bytes of its input."""
        task, again = tables.task.c, tables.task.alias("again").c
        repeated = sa.select(sa.literal(1)).where(again.retried_from == task.task_id).exists()
        query = (
            sa.select(*listed(), sa.func.octet_length(task.input).label("input_bytes"))
            .where(
                task.tenant == tenant,
                task.dead_lettered,
                task.erase_time.is_(None),
                ~repeated,
                *meets(conditions),
            )
            .order_by(task.create_time, task.task_id)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            return [(to_task(row), row.input_bytes) for row in (await connection.execute(query)).all()]

    @undisturbed
    async def inputs(self, tenant: str, task_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
        """The inputs of these tasks."""
        parameters = {"tenant": tenant, "task_ids": list(task_ids)}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_INPUTS, parameters)).all()
        return {row.task_id: row.input for row in rows}

    @undisturbed
    async def earlier(self, tenant: str, key: RequestKey) -> list[tuple[uuid.UUID, str]]:
        """The tasks that an earlier request with this method made, each with the digest of its body."""
        parameters = {"tenant": tenant, "subject": key.subject, "method": key.method}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_EARLIER, parameters)).all()
        return [(row.task_id, row.digest) for row in rows]

    @undisturbed
    async def ordinal(self, tenant: str, task_id: uuid.UUID, step_key: str) -> int | None:
        """Which step of its task it was."""
        parameters = {"tenant": tenant, "task_id": task_id, "step_key": step_key}
        async with self._database.autocommit() as connection:
            found: int | None = (await connection.execute(_STEP, parameters)).scalar_one_or_none()
        return found
