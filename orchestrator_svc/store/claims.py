"""Handing out runnable tasks."""

import secrets
import uuid
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.dispatch import Candidate
from orchestrator_svc.records import Claimer, ClaimKey, HeldQueue, NewClaim, Runnable, Turn, Waiting
from orchestrator_svc.store.candidates import CANDIDATES, HIGHEST_HASH
from orchestrator_svc.store.queue_state import OPEN_QUEUES, TOKENS
from orchestrator_svc.store.rows import LOCKED_COLUMNS, AnyRow, to_locked
from orchestrator_svc.store.sessions import to_session
from orchestrator_svc.store.write import write_changes
from svc_kit.database import Database

_FINISHED = (
    "(SELECT coalesce(array_agg(step_key ORDER BY ordinal), '{}') FROM task_step"
    " WHERE task.step_count > 0 AND task_step.task_id = task.task_id"
    " AND task_step.status IN ('COMPLETED', 'FAILED')) AS finished"
)
_HAS_SUSPECT = (
    "EXISTS (SELECT FROM task WHERE task.session_id = worker_session.session_id AND task.suspect) AS suspect"
)
# Key share: a session cannot be ended while tasks are handed to it, and heartbeats do not wait for claims.
_SESSIONS = sa.text(
    f"SELECT worker_session.*, {_HAS_SUSPECT}, asked.claim_id, claim.claim_id IS NOT NULL AS answered"  # noqa: S608
    " FROM worker_session"
    " JOIN unnest(CAST(:session_ids AS uuid[]), CAST(:claim_ids AS uuid[])) AS asked (session_id, claim_id)"
    " USING (session_id) LEFT JOIN claim USING (claim_id, session_id)"
    " WHERE end_time IS NULL ORDER BY session_id FOR KEY SHARE OF worker_session"
)
# Two replicas could find at once that a session has no suspect aboard: this makes one wait for the other.
_SUSPECT_LOCK = sa.text(
    "SELECT FROM worker_session WHERE session_id = :session_id AND end_time IS NULL FOR NO KEY UPDATE"
)
_SUSPECT_ABOARD = sa.text("SELECT FROM task WHERE session_id = :session_id AND suspect LIMIT 1")
_RUNNABLE = (
    f"{LOCKED_COLUMNS}, task.input, task.input_blob, {_FINISHED}, task.suspect AS alone,"
    " clock_timestamp() AS now"
)
_REPLAY = sa.text(
    f"SELECT claim.session_id AS claimer, claim.claim_id, claim.attempt AS claimed, {LOCKED_COLUMNS},"  # noqa: S608
    f" task.input, task.input_blob, {_FINISHED}, clock_timestamp() AS now"
    " FROM claim JOIN task USING (task_id, tenant)"
    " WHERE (claim.session_id, claim_id) IN (SELECT * FROM unnest(CAST(:session_ids AS uuid[]),"
    " CAST(:claim_ids AS uuid[])))"
)
TURNS = sa.text(f"{OPEN_QUEUES} SELECT tenant, queue, managed FROM open_queue ORDER BY random()")  # noqa: S608
# From priority to priority along the index, so that what is not due yet is never stepped over. The rows come
# in the order of the series: a lateral row source depends on the row before it. No row is locked that is not
# returned.
PICK = sa.text(
    f"SELECT {_RUNNABLE}"  # noqa: S608
    " FROM generate_series(9, 0, -1) AS level (priority), LATERAL (SELECT * FROM task"
    " WHERE state = 'SUBMITTED' AND pool = :pool AND tenant = :tenant AND queue = :queue"
    " AND task.priority = level.priority AND fairness_key = '' AND concurrency_key = ''"
    f" AND run_after <= statement_timestamp() AND (:suspects OR NOT task.suspect)"
    " ORDER BY run_after, task_id LIMIT :limit FOR UPDATE SKIP LOCKED) AS task LIMIT :limit"
)
_HOLD = sa.text(
    f"SELECT tenant, name, paused, max_running, max_running_per_key, turns, {TOKENS} AS tokens"  # noqa: S608
    " FROM queue WHERE (tenant, name) IN (SELECT * FROM unnest(CAST(:tenants AS text[]),"
    " CAST(:names AS text[]))) ORDER BY tenant, name FOR NO KEY UPDATE"
)
# Read by a statement that begins after the queue was locked: it sees every claim before this one.
_RUNNING = sa.text(
    "SELECT concurrency_key, count(*) AS n FROM (SELECT concurrency_key FROM task WHERE tenant = :tenant"
    " AND queue = :queue AND session_id IS NOT NULL) AS live GROUP BY concurrency_key"
)
_TAKE = sa.text(
    f"SELECT {_RUNNABLE}"  # noqa: S608
    " FROM task WHERE task_id = ANY(CAST(:task_ids AS uuid[])) AND state = 'SUBMITTED'"
    " ORDER BY array_position(CAST(:task_ids AS uuid[]), task_id) FOR UPDATE OF task SKIP LOCKED"
)
_SPEND = sa.text(
    f"UPDATE queue SET turns = CAST(:turns AS text[]), tokens = coalesce({TOKENS} - :started, 0),"  # noqa: S608
    " tokens_time = clock_timestamp() WHERE tenant = :tenant AND name = :name"
)


class ClaimStore:
    """Sessions, earlier answers, queues and runnable tasks, on the transaction that the caller holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the methods below; lock order: sessions, queues, tasks, the log."""
        return self._database.transaction()

    async def hold_sessions(
        self, connection: AsyncConnection, keys: Sequence[ClaimKey]
    ) -> tuple[dict[uuid.UUID, Claimer], set[ClaimKey]]:
        """For (session id, claim id): the sessions that have not ended, and those answered before.

        The sessions will not end before the transaction does.
        """
        parameters = {
            "session_ids": [session_id for session_id, _ in keys],
            "claim_ids": [claim_id for _, claim_id in keys],
        }
        rows = (await connection.execute(_SESSIONS, parameters)).all()
        sessions = {
            row.session_id: Claimer(session=to_session(row), suspect=row.suspect, draining=row.draining)
            for row in rows
        }
        return sessions, {(row.session_id, row.claim_id) for row in rows if row.answered}

    async def may_take_suspect(self, connection: AsyncConnection, session_id: uuid.UUID) -> bool:
        """Whether no suspect is aboard; none comes aboard before the transaction ends."""
        keys = {"session_id": session_id}
        await connection.execute(_SUSPECT_LOCK, keys)
        return (await connection.execute(_SUSPECT_ABOARD, keys)).one_or_none() is None

    async def replays(
        self, connection: AsyncConnection, claims: Collection[ClaimKey]
    ) -> dict[ClaimKey, Runnable]:
        """What these claims were answered with."""
        parameters = {
            "session_ids": [session_id for session_id, _ in claims],
            "claim_ids": [claim_id for _, claim_id in claims],
        }
        rows = (await connection.execute(_REPLAY, parameters)).all()
        return {
            (row.claimer, row.claim_id): Runnable(
                task=to_locked(row),
                input_json=row.input,
                finished_steps=tuple(row.finished),
                attempt=row.claimed,
                input_blob=row.input_blob,
            )
            for row in rows
        }

    async def turns(self, connection: AsyncConnection, pool: str, tenants: Collection[str]) -> list[Turn]:
        """Queues in which something waits and which are not paused or at a limit, in a random order."""
        parameters = {"pool": pool, "tenants": sorted(tenants)}
        rows = (await connection.execute(TURNS, parameters)).all()
        return [Turn(pool=pool, tenant=row.tenant, queue=row.queue, managed=row.managed) for row in rows]

    async def hold_queues(
        self, connection: AsyncConnection, turns: Collection[Turn]
    ) -> dict[tuple[str, str], HeldQueue]:
        """By tenant and name, the queues that exist, locked: nobody else claims from them now."""
        names = sorted((turn.tenant, turn.queue) for turn in turns)
        parameters = {"tenants": [tenant for tenant, _ in names], "names": [name for _, name in names]}
        return {
            (row.tenant, row.name): HeldQueue(
                paused=row.paused,
                max_running=row.max_running,
                max_running_per_key=row.max_running_per_key,
                tokens=int(row.tokens) if row.tokens is not None else None,
                turns=tuple(row.turns),
            )
            for row in (await connection.execute(_HOLD, parameters)).all()
        }

    async def running(self, connection: AsyncConnection, turn: Turn) -> dict[str, int]:
        """How many tasks of a locked queue run, by concurrency key."""
        parameters = {"tenant": turn.tenant, "queue": turn.queue}
        rows = (await connection.execute(_RUNNING, parameters)).all()
        return {row.concurrency_key: row.n for row in rows}

    async def pick(
        self, connection: AsyncConnection, turn: Turn, *, limit: int, suspects: bool
    ) -> list[Runnable]:
        """Up to `limit` tasks without keys, by priority and age, locked; those that others hold are left."""
        parameters = {
            "pool": turn.pool,
            "tenant": turn.tenant,
            "queue": turn.queue,
            "limit": limit,
            "suspects": suspects,
        }
        return _runnables((await connection.execute(PICK, parameters)).all())

    async def candidates(self, connection: AsyncConnection, turn: Turn, waiting: Waiting) -> list[Candidate]:
        """Enough of the waiting tasks of a locked queue for `dispatch.choose`, in the order it asks for."""
        parameters = {
            "pool": turn.pool,
            "tenant": turn.tenant,
            "queue": turn.queue,
            "turns": list(waiting.turns),
            "full": list(waiting.full),
            "limit": waiting.limit,
            "per_key": waiting.per_key,
            "suspects": waiting.suspects,
            "start": secrets.randbits(64) - HIGHEST_HASH - 1,
        }
        rows = (await connection.execute(CANDIDATES, parameters)).all()
        return [
            Candidate(
                task_id=task_id,
                priority=row.priority,
                fairness_key=row.fairness_key,
                concurrency_key=concurrency_key,
            )
            for row in sorted(rows, key=lambda row: -row.priority)
            for task_id, concurrency_key in zip(row.task_ids, row.concurrency_keys, strict=True)
        ]

    async def take(self, connection: AsyncConnection, task_ids: Sequence[uuid.UUID]) -> list[Runnable]:
        """These tasks, locked, as far as they wait still and nobody else holds them."""
        return _runnables((await connection.execute(_TAKE, {"task_ids": list(task_ids)})).all())

    async def spend(
        self, connection: AsyncConnection, turn: Turn, turns: Sequence[str], *, started: int
    ) -> None:
        """Note in a locked queue whose turn it was, and that so many tasks were started."""
        parameters = {
            "tenant": turn.tenant,
            "name": turn.queue,
            "turns": list(turns),
            "started": started,
        }
        await connection.execute(_SPEND, parameters)

    async def write(
        self, connection: AsyncConnection, accepted: Sequence[TaskChanges], claims: Sequence[NewClaim]
    ) -> None:
        """Write the attempts that began; the last statement of the transaction."""
        await write_changes(connection, accepted, claims)


def _runnables(rows: Sequence[AnyRow]) -> list[Runnable]:
    return [
        Runnable(
            task=to_locked(row),
            input_json=row.input,
            finished_steps=tuple(row.finished),
            alone=row.alone,
            input_blob=row.input_blob,
        )
        for row in rows
    ]
