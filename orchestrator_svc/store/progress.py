"""What attempts say of themselves."""

import json
import uuid
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from orchestrator_svc.progress import Word
from orchestrator_svc.records import Progress
from orchestrator_svc.store.rows import to_progress
from svc_kit.database import Database

# Locked without waiting: an attempt that ends just now need not be heard, and nobody waits for a circle.
_TELL = sa.text(
    "WITH held AS (SELECT attempt.task_id, attempt.attempt, said.progress FROM attempt"
    " JOIN unnest(CAST(:tenants AS text[]), CAST(:task_ids AS uuid[]), CAST(:attempts AS int[]),"
    " CAST(:session_ids AS uuid[]), CAST(:progress AS text[]))"
    " AS said (tenant, task_id, attempt, session_id, progress) USING (tenant, task_id, attempt, session_id)"
    " WHERE end_time IS NULL FOR NO KEY UPDATE OF attempt SKIP LOCKED),"
    " told AS (UPDATE attempt SET progress = held.progress::jsonb, progress_time = statement_timestamp()"
    " FROM held WHERE attempt.task_id = held.task_id AND attempt.attempt = held.attempt"
    # A word that was overtaken on its way stays unsaid.
    " AND (attempt.progress IS NULL"
    " OR CAST(attempt.progress ->> 'number' AS bigint) < CAST(held.progress::jsonb ->> 'number' AS bigint)))"
    " SELECT task_id, attempt FROM held"
)
_LATEST = sa.text(
    "SELECT task_id, attempt, progress, progress_time FROM attempt"
    " WHERE task_id = ANY(CAST(:task_ids AS uuid[])) AND end_time IS NULL AND progress IS NOT NULL"
)


class ProgressStore:
    """The last words of live attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def tell(self, words: Sequence[Word]) -> set[tuple[uuid.UUID, int]]:
        """Store what is said; (task id, attempt) of those that live."""
        parameters = {
            "tenants": [word.held.ref.tenant for word in words],
            "task_ids": [word.held.ref.task_id for word in words],
            "attempts": [word.held.ref.attempt for word in words],
            "session_ids": [word.held.session_id for word in words],
            "progress": [
                json.dumps({"number": word.number, "message": word.message, "done": word.done})
                for word in words
            ],
        }
        async with self._database.transaction() as connection:
            rows = (await connection.execute(_TELL, parameters)).all()
        return {(row.task_id, row.attempt) for row in rows}

    async def latest(self, task_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Progress]:
        """By task, what its live attempt last said."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_LATEST, {"task_ids": list(task_ids)})).all()
        found = ((row.task_id, to_progress(row)) for row in rows)
        return {task_id: progress for task_id, progress in found if progress is not None}
