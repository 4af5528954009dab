"""Tasks under their lock, their steps, and the writing of what they became."""

import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.records import ChildEnd, InputRequest, LockedTask, Siblings, Step, StoredInput
from orchestrator_svc.store.children import child_ends, siblings, write_children
from orchestrator_svc.store.rows import LOCKED_COLUMNS, to_input, to_locked, to_step
from orchestrator_svc.store.write import write_changes
from svc_kit.database import Database

_LOCK = sa.text(
    f"SELECT {LOCKED_COLUMNS}, clock_timestamp() AS now FROM task"  # noqa: S608 - a list of our own
    " JOIN (SELECT DISTINCT * FROM unnest(CAST(:task_ids AS uuid[]), CAST(:tenants AS text[]))"
    " AS asked (task_id, tenant)) AS asked USING (task_id, tenant)"
    " ORDER BY task.task_id FOR UPDATE OF task"
)
_STEPS = sa.text(
    "SELECT task_step.* FROM task_step JOIN unnest(CAST(:task_ids AS uuid[]), CAST(:tenants AS text[]),"
    " CAST(:step_keys AS text[])) AS asked (task_id, tenant, step_key) USING (task_id, tenant, step_key)"
)
_INPUTS = sa.text(
    "SELECT task_input.* FROM task_input JOIN unnest(CAST(:task_ids AS uuid[]), CAST(:tenants AS text[]),"
    " CAST(:input_ids AS text[])) AS asked (task_id, tenant, input_id) USING (task_id, tenant, input_id)"
)
# An answer that was there and does not count for this question is forgotten: the question stands.
_ASK = sa.text(
    "INSERT INTO task_input (task_id, input_id, tenant, kind, step_key, prompt, schema, attempt,"
    " request_time) VALUES (:task_id, :input_id, :tenant, :kind, :step_key, :prompt, :schema, :attempt,"
    " clock_timestamp())"
    " ON CONFLICT (task_id, input_id) DO UPDATE SET kind = excluded.kind, step_key = excluded.step_key,"
    " prompt = excluded.prompt, schema = excluded.schema, attempt = excluded.attempt,"
    " request_time = coalesce(task_input.request_time, excluded.request_time),"
    " answer = NULL, answered_by = NULL, answer_time = NULL, decided = false"
)


class AttemptStore:
    """Reads under locks, and writes, on the transaction that the caller holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the methods below; lock tasks first, write once, last."""
        return self._database.transaction()

    async def lock(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]]
    ) -> list[LockedTask]:
        """The tasks of these (tenant, task id), locked in the order of their ids, as far as they exist."""
        parameters = {"tenants": [tenant for tenant, _ in keys], "task_ids": [task_id for _, task_id in keys]}
        return [to_locked(row) for row in (await connection.execute(_LOCK, parameters)).all()]

    async def steps(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID, str]]
    ) -> list[Step]:
        """The steps of these (tenant, task id, step key) that exist; their tasks are locked already."""
        if not keys:
            return []
        parameters = {
            "tenants": [tenant for tenant, _, _ in keys],
            "task_ids": [task_id for _, task_id, _ in keys],
            "step_keys": [step_key for _, _, step_key in keys],
        }
        return [to_step(row) for row in (await connection.execute(_STEPS, parameters)).all()]

    async def inputs(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID, str]]
    ) -> list[StoredInput]:
        """The requests for input of these (tenant, task id, input id) that exist; their tasks are locked."""
        if not keys:
            return []
        parameters = {
            "tenants": [tenant for tenant, _, _ in keys],
            "task_ids": [task_id for _, task_id, _ in keys],
            "input_ids": [input_id for _, _, input_id in keys],
        }
        return [to_input(row) for row in (await connection.execute(_INPUTS, parameters)).all()]

    async def child_ends(
        self, connection: AsyncConnection, keys: Sequence[tuple[str, uuid.UUID]]
    ) -> list[ChildEnd]:
        """How those of these (tenant, child task id) ended that have."""
        return await child_ends(connection, keys) if keys else []

    async def siblings(
        self, connection: AsyncConnection, parents: Sequence[LockedTask]
    ) -> dict[uuid.UUID, Siblings]:
        """By parent, how many children it and its tree have; nobody else adds to the trees meanwhile."""
        return await siblings(connection, parents) if parents else {}

    async def write(self, connection: AsyncConnection, accepted: Sequence[TaskChanges]) -> None:
        """Write what the locked tasks became; the last statement of the transaction."""
        asked = [_asked(each.task, each.asked) for each in accepted if each.asked is not None]
        if asked:
            await connection.execute(_ASK, asked)
        await write_children(connection, accepted)
        await write_changes(connection, accepted)


def _asked(task: LockedTask, request: InputRequest) -> dict[str, object]:
    return {
        "task_id": task.task_id,
        "tenant": task.tenant,
        "input_id": request.input_id,
        "kind": str(request.kind),
        "step_key": request.step_key,
        "prompt": request.prompt,
        "schema": request.schema_json,
        "attempt": task.status.attempt,
    }
