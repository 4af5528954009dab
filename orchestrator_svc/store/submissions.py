"""Storing new tasks: one statement and one round trip for a whole batch."""

import json
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import AuditKind, AuditNote
from orchestrator_svc.placement import DEFAULT_QUEUE
from orchestrator_svc.records import NOT_PLACED, POOL, NewTask, NotPlaced, RequestKey, Stored, Task
from orchestrator_svc.store.rows import TASK_COLUMNS, AnyRow, retry_json, submitters_json, to_task
from orchestrator_svc.store.write import note_body
from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database
from svc_kit.group_commit import in_row_order
from svc_kit.ids import uuid7

# A statement on its own is a transaction: queues, request ids in key order, tasks, then the head of the log.
# A queue that is shared by the key cannot be deleted meanwhile. Rows that are not placed here need more than
# this statement can decide: `admitted` says that it has been decided, and that the request ids are taken.
_STORE = sa.text(
    """
    WITH row AS (
        SELECT * FROM unnest(CAST(:task_id AS uuid[]), CAST(:tenant AS text[]), CAST(:agent AS text[]),
            CAST(:version AS text[]), CAST(:agent_digest AS text[]), CAST(:isolation AS text[]),
            CAST(:retry AS text[]), CAST(:start_to_close AS float8[]), CAST(:task_type AS text[]),
            CAST(:labels AS text[]), CAST(:submitters AS text[]), CAST(:traceparent AS text[]),
            CAST(:retried_from AS uuid[]), CAST(:input AS text[]), CAST(:subject AS text[]),
            CAST(:method AS text[]), CAST(:request_id AS uuid[]), CAST(:body_digest AS text[]),
            CAST(:prompt_event AS uuid[]), CAST(:state_event AS uuid[]), CAST(:note AS text[]),
            CAST(:queue AS text[]), CAST(:priority AS smallint[]), CAST(:fairness_key AS text[]),
            CAST(:concurrency_key AS text[]), CAST(:run_after AS timestamptz[]), CAST(:delay AS float8[]),
            CAST(:to_start AS float8[]), CAST(:to_close AS float8[]), CAST(:from_step AS text[]),
            CAST(:step_count AS int[]), CAST(:input_blob AS text[]))
            WITH ORDINALITY AS row (task_id, tenant, agent, version, agent_digest, isolation, retry,
                start_to_close, task_type, labels, submitters, traceparent, retried_from, input, subject,
                method, request_id, body_digest, prompt_event, state_event, note, queue, priority,
                fairness_key, concurrency_key, run_after, delay, to_start, to_close, from_step, step_count,
                input_blob, ordinal)
    ), held AS MATERIALIZED (
        SELECT tenant, name, pool, max_waiting, keyed FROM queue
        WHERE (tenant, name) IN (SELECT tenant, queue FROM row) ORDER BY tenant, name FOR KEY SHARE OF queue
    ), placed AS (
        SELECT row.*, coalesce(held.pool, :pool) AS pool,
            greatest(now(), row.run_after, now() + make_interval(secs => row.delay)) AS starts
        FROM row LEFT JOIN held ON held.tenant = row.tenant AND held.name = row.queue
        WHERE CASE WHEN held.name IS NULL
            THEN row.queue = :default_queue AND row.fairness_key = '' AND row.concurrency_key = ''
            ELSE :admitted OR (held.max_waiting IS NULL
                AND (held.keyed OR (row.fairness_key = '' AND row.concurrency_key = '')))
            END
    ), first AS (
        INSERT INTO idempotency (tenant, subject, method, request_id, digest, task_id, create_time)
        SELECT tenant, subject, method, request_id, body_digest, task_id, now() FROM placed
        WHERE request_id IS NOT NULL AND NOT :admitted ORDER BY tenant, subject, method, request_id
        ON CONFLICT DO NOTHING RETURNING task_id
    ), stored AS (
        INSERT INTO task (task_id, tenant, pool, agent, agent_version, agent_digest, isolation, retry,
            start_to_close, task_type, labels, submitters, traceparent, retried_from, input, state,
            wait_reason, run_after, attempt, failures, crashes, revision, step_count, create_time,
            schedule_to_start, schedule_to_close, start_by, expires, queue, priority, fairness_key,
            concurrency_key, from_step, input_blob)
        SELECT task_id, tenant, pool, agent, version, agent_digest, isolation, retry::jsonb, start_to_close,
            task_type, labels::jsonb, submitters::jsonb, traceparent, retried_from, input, 'SUBMITTED',
            CASE WHEN starts > now() THEN 'SCHEDULED' ELSE 'QUEUED' END, starts, 0, 0, 0, 1, step_count,
            now(), to_start, to_close, starts + make_interval(secs => to_start),
            now() + make_interval(secs => to_close), queue, priority, fairness_key, concurrency_key,
            from_step, input_blob
        FROM placed WHERE :admitted OR request_id IS NULL OR task_id IN (SELECT task_id FROM first)
        ORDER BY task_id
        ON CONFLICT (task_id) DO NOTHING RETURNING task_id, create_time, run_after, pool, wait_reason
    ), counted AS (
        SELECT count(*) AS n FROM stored
    ), head AS (
        UPDATE log_head SET position = log_head.position + counted.n,
            outbox_seq = log_head.outbox_seq + 2 * counted.n
        FROM counted WHERE id = 1 AND counted.n > 0
        RETURNING log_head.position - counted.n AS position, log_head.outbox_seq - 2 * counted.n AS outbox_seq
    ), numbered AS (
        SELECT row.*, stored.wait_reason, row_number() OVER (ORDER BY ordinal) AS n
        FROM row JOIN stored USING (task_id)
    ), event AS (
        INSERT INTO task_event (task_id, revision, position, tenant, type, state, wait_reason, attempt, time)
        SELECT task_id, 1, head.position + n, tenant, 'STATE_CHANGED', 'SUBMITTED', wait_reason, 0, now()
        FROM numbered, head
    ), notes AS (
        INSERT INTO outbox (seq, tenant, event_id, kind, body)
        SELECT head.outbox_seq + 2 * n - 1, tenant, prompt_event, 'PROMPT', note::jsonb FROM numbered, head
        UNION ALL
        SELECT head.outbox_seq + 2 * n, tenant, state_event, 'STATE_CHANGE', note::jsonb FROM numbered, head
    )
    SELECT row.ordinal, row.tenant, placed.task_id IS NOT NULL AS placed, stored.create_time,
        stored.run_after, stored.pool, stored.wait_reason = 'QUEUED' AS ready
    FROM row LEFT JOIN placed USING (task_id) LEFT JOIN stored USING (task_id)
    """
)
# Steps are taken over as they are, with the ids of the calls that brought their outcomes.
_STORE_WITH_STEPS = sa.text(
    str(_STORE).replace(
        "SELECT row.ordinal, row.tenant",
        """, copied AS (
        INSERT INTO task_step (task_id, step_key, tenant, ordinal, kind, name, status, call_id, input_digest,
            input, output, error, attempt, start_time, end_time)
        SELECT row.task_id, step.step_key, step.tenant, step.ordinal, step.kind, step.name, step.status,
            step.call_id, step.input_digest, step.input, step.output, step.error, 0, step.start_time,
            step.end_time
        FROM row JOIN stored USING (task_id) JOIN task_step AS step
            ON step.task_id = row.retried_from AND step.tenant = row.tenant
        WHERE step.ordinal <= row.step_count AND step.status IN ('COMPLETED', 'FAILED')
    )
    SELECT row.ordinal, row.tenant""",
    )
)
_RECALL = sa.text(
    f"SELECT asked.ordinal, asked.tenant, known.digest, {TASK_COLUMNS}"  # noqa: S608 - a list of our own
    " FROM unnest(CAST(:task_id AS uuid[]), CAST(:tenant AS text[]), CAST(:subject AS text[]),"
    " CAST(:method AS text[]), CAST(:request_id AS uuid[])) WITH ORDINALITY"
    " AS asked (task_id, tenant, subject, method, request_id, ordinal)"
    " LEFT JOIN idempotency AS known ON known.tenant = asked.tenant AND known.subject = asked.subject"
    " AND known.method = asked.method AND known.request_id = asked.request_id"
    " JOIN task ON task.task_id = coalesce(known.task_id, asked.task_id) AND task.tenant = asked.tenant"
)


async def store_tasks(
    connection: AsyncConnection, rows: Sequence[NewTask], *, admitted: bool = False
) -> list[Stored | NotPlaced | None]:
    """What became of each row; `admitted` rows have met the bounds of their queues, which are locked.

    Their request ids, if they have any, are taken.
    """
    parameters = {**_parameters(rows), "admitted": admitted}
    statement = _STORE_WITH_STEPS if any(row.step_count for row in rows) else _STORE
    found = (await connection.execute(statement, parameters)).all()
    return in_row_order(
        [row.tenant for row in rows], [(each.ordinal, each.tenant, _outcome(each)) for each in found]
    )


class SubmissionStore:
    """New tasks and the requests that brought them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def store(self, rows: Sequence[NewTask]) -> list[Stored | NotPlaced | None]:
        """What became of each, in the order of `rows`; None for a row that was not stored now.

        That is one whose request id is taken, or which an earlier try of this very batch stored.
        """
        async with self._database.autocommit() as connection:
            return await store_tasks(connection, rows)

    async def recall(self, rows: Sequence[NewTask]) -> list[tuple[Task, str]]:
        """For rows that were not stored now: the task that stands for each, and its request's digest."""
        keys = [row.request for row in rows]
        parameters = {
            "task_id": [row.task_id for row in rows],
            "tenant": [row.tenant for row in rows],
            "subject": [key.subject if key else None for key in keys],
            "method": [key.method if key else None for key in keys],
            "request_id": [key.request_id if key else None for key in keys],
        }
        async with self._database.autocommit() as connection:
            found = (await connection.execute(_RECALL, parameters)).all()
        replies = [(r.ordinal, r.tenant, (to_task(r), r.digest or "")) for r in found]
        return in_row_order([row.tenant for row in rows], replies)

    @undisturbed
    async def queue_exists(self, tenant: str, queue: str) -> bool:
        """Whether tasks can wait in it; `default` is there for every tenant."""
        query = sa.text("SELECT FROM queue WHERE tenant = :tenant AND name = :name")
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query, {"tenant": tenant, "name": queue})).one_or_none()
        return row is not None or queue == DEFAULT_QUEUE

    @undisturbed
    async def find_request(self, tenant: str, key: RequestKey) -> tuple[uuid.UUID, str] | None:
        """The task that a request id brought, and the digest of its body."""
        query = sa.text(
            "SELECT task_id, digest FROM idempotency WHERE tenant = :tenant AND subject = :subject"
            " AND method = :method AND request_id = :request_id"
        )
        parameters = {
            "tenant": tenant,
            "subject": key.subject,
            "method": key.method,
            "request_id": key.request_id,
        }
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query, parameters)).one_or_none()
        return (row.task_id, row.digest) if row is not None else None


def _outcome(row: AnyRow) -> Stored | NotPlaced | None:
    if not row.placed:
        return NOT_PLACED
    if row.create_time is None:
        return None
    return Stored(create_time=row.create_time, run_after=row.run_after, pool=row.pool, ready=row.ready)


def _parameters(rows: Sequence[NewTask]) -> dict[str, Any]:
    return {
        "pool": POOL,
        "default_queue": DEFAULT_QUEUE,
        "task_id": [row.task_id for row in rows],
        "tenant": [row.tenant for row in rows],
        "agent": [row.agent.name for row in rows],
        "version": [row.agent.version for row in rows],
        "agent_digest": [row.agent.digest for row in rows],
        "isolation": [str(row.agent.isolation) for row in rows],
        "retry": [retry_json(row.agent.retry) for row in rows],
        "start_to_close": [row.agent.start_to_close for row in rows],
        "task_type": [row.task_type for row in rows],
        "labels": [json.dumps(dict(row.labels)) for row in rows],
        "submitters": [submitters_json(row.submitters) for row in rows],
        "traceparent": [row.traceparent for row in rows],
        "retried_from": [row.retried_from for row in rows],
        "input": [row.input_json for row in rows],
        "subject": [row.request.subject if row.request else None for row in rows],
        "method": [row.request.method if row.request else None for row in rows],
        "request_id": [row.request.request_id if row.request else None for row in rows],
        "body_digest": [row.request.digest if row.request else None for row in rows],
        "prompt_event": [uuid7() for _ in rows],
        "state_event": [uuid7() for _ in rows],
        "note": [_note(row) for row in rows],
        "to_start": [row.timeouts.schedule_to_start for row in rows],
        "from_step": [row.from_step or None for row in rows],
        "step_count": [row.step_count for row in rows],
        "to_close": [row.timeouts.schedule_to_close for row in rows],
        "queue": [row.placement.queue for row in rows],
        "priority": [row.placement.priority for row in rows],
        "fairness_key": [row.placement.fairness_key for row in rows],
        "concurrency_key": [row.placement.concurrency_key for row in rows],
        "run_after": [row.start.run_after for row in rows],
        "delay": [row.start.delay for row in rows],
        "input_blob": [row.input_blob for row in rows],
    }


def _note(row: NewTask) -> str:
    return note_body(
        AuditNote(
            kind=AuditKind.PROMPT,
            task_id=row.task_id,
            tenant=row.tenant,
            revision=1,
            actor=row.submitters[0].subject,
            facts={"parent_task_id": str(row.lineage.parent)} if row.lineage.parent is not None else {},
        )
    )
