"""What the audit log is to be told, read from the immutable rows that outbox rows point at."""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa

from orchestrator_svc.records import StoredEvent, TaskSubject
from orchestrator_svc.store.rows import to_event
from svc_kit.database import Database

_EVENTS = sa.text(
    "SELECT task_event.* FROM task_event JOIN unnest(CAST(:task_ids AS uuid[]), CAST(:revisions AS bigint[]))"
    " AS asked (task_id, revision) USING (task_id, revision)"
)
_SUBJECTS = sa.text(
    "SELECT task_id, agent, agent_version, agent_digest, isolation, traceparent,"
    " CASE WHEN task_id = ANY(CAST(:prompts AS uuid[])) THEN input ELSE '' END AS input,"
    " CASE WHEN task_id = ANY(CAST(:results AS uuid[])) THEN result END AS result,"
    " input_blob, result_blob"
    " FROM task WHERE task_id = ANY(CAST(:task_ids AS uuid[]))"
)
_ANSWERS = sa.text(
    "SELECT task_id, input_id, answer FROM task_input JOIN unnest(CAST(:task_ids AS uuid[]),"
    " CAST(:input_ids AS text[])) AS asked (task_id, input_id) USING (task_id, input_id)"
    " WHERE answer IS NOT NULL"
)


class AuditStore:
    """Over all tenants: for the relay alone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def events(self, keys: Sequence[tuple[uuid.UUID, int]]) -> dict[tuple[uuid.UUID, int], StoredEvent]:
        """Events by (task id, revision)."""
        parameters = {"task_ids": [key for key, _ in keys], "revisions": [revision for _, revision in keys]}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_EVENTS, parameters)).all()
        return {(row.task_id, row.revision): to_event(row) for row in rows}

    async def answers(self, keys: Sequence[tuple[uuid.UUID, str]]) -> dict[tuple[uuid.UUID, str], str]:
        """What people said, by (task id, input id); an answer that did not fit its question was forgotten."""
        if not keys:
            return {}
        parameters = {
            "task_ids": [task_id for task_id, _ in keys],
            "input_ids": [input_id for _, input_id in keys],
        }
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_ANSWERS, parameters)).all()
        return {(row.task_id, row.input_id): row.answer for row in rows}

    async def subjects(
        self, task_ids: set[uuid.UUID], *, prompts: set[uuid.UUID], results: set[uuid.UUID]
    ) -> dict[uuid.UUID, TaskSubject]:
        """Tasks by id; inputs and results only of those that are asked for."""
        parameters = {"task_ids": list(task_ids), "prompts": list(prompts), "results": list(results)}
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(_SUBJECTS, parameters)).all()
        return {
            row.task_id: TaskSubject(
                agent=row.agent,
                agent_version=row.agent_version,
                agent_digest=row.agent_digest,
                isolation=row.isolation,
                traceparent=row.traceparent,
                input_json=row.input,
                result_json=row.result,
                input_blob=row.input_blob,
                result_blob=row.result_blob,
            )
            for row in rows
        }
