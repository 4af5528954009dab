"""Giving tasks to workers: one transaction decides for every worker that waits."""

import uuid
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import pool_forbidden, session_not_found
from orchestrator_svc.records import NewClaim, Runnable, Session
from svc_kit.errors import DomainError
from svc_kit.group_commit import GroupCommit, Observer

_ROW_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRequest:
    """A worker asks for one task of `pool`; `tenants` are those its token names with that pool."""

    claim_id: uuid.UUID
    session_id: uuid.UUID
    subject: str
    pool: str
    tenants: frozenset[str]


class ClaimStore(Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def hold_sessions(
        self, connection: AsyncConnection, keys: Sequence[tuple[uuid.UUID, uuid.UUID]]
    ) -> tuple[dict[uuid.UUID, Session], set[uuid.UUID]]: ...
    async def replays(
        self, connection: AsyncConnection, claim_ids: Collection[uuid.UUID]
    ) -> dict[uuid.UUID, Runnable]: ...
    async def pick(
        self, connection: AsyncConnection, pool: str, tenants: Collection[str], limit: int
    ) -> list[Runnable]: ...
    async def write(
        self, connection: AsyncConnection, accepted: Sequence[TaskChanges], claims: Sequence[NewClaim]
    ) -> None: ...


class Announcer(Protocol):
    """Told after each commit."""

    def committed(self, *, runnable: Mapping[str, int]) -> None: ...


class Claims:
    """Hands out what is runnable, oldest first; a task goes to one claimer only."""

    def __init__(self, *, store: ClaimStore, announcer: Announcer, observe: Observer | None = None) -> None:
        self._store = store
        self._announcer = announcer
        self._lane: GroupCommit[ClaimRequest, Runnable | None] = GroupCommit(
            self._commit,
            size_of=lambda _: _ROW_BYTES,
            tenant_of=lambda row: row.subject,
            observe=observe,
        )

    async def claim(self, request: ClaimRequest) -> Runnable | None:
        """The task whose attempt has begun, or None when nothing is runnable now.

        Raises SESSION_NOT_FOUND, POOL_FORBIDDEN or DATABASE_UNAVAILABLE.
        """
        return await self._lane.submit(request)

    async def close(self) -> None:
        """Answer whoever waits and take nothing more."""
        await self._lane.close()

    async def _commit(self, rows: Sequence[ClaimRequest]) -> Sequence[Runnable | DomainError | None]:
        async with self._store.transaction() as connection:
            sessions, known = await self._store.hold_sessions(
                connection, [(row.session_id, row.claim_id) for row in rows]
            )
            answers: dict[uuid.UUID, Runnable | None] = {}
            if known:
                answers.update(await self._store.replays(connection, known))
            refused = {id(row): error for row in rows if (error := _refusal(row, sessions)) is not None}
            waiting = {
                row.claim_id: row for row in rows if id(row) not in refused and row.claim_id not in answers
            }
            begun = await self._begin(connection, list(waiting.values()), sessions)
            answers |= dict.fromkeys(waiting) | begun
        if begun:
            for runnable in begun.values():
                metrics.CLAIMED.labels(runnable.task.pool).inc()
            self._announcer.committed(runnable={})
        return [refused[id(row)] if id(row) in refused else answers[row.claim_id] for row in rows]

    async def _begin(
        self,
        connection: AsyncConnection,
        rows: Sequence[ClaimRequest],
        sessions: Mapping[uuid.UUID, Session],
    ) -> dict[uuid.UUID, Runnable]:
        """Begin an attempt for as many claims as there are runnable tasks."""
        groups: defaultdict[tuple[str, frozenset[str]], list[ClaimRequest]] = defaultdict(list)
        for row in rows:
            groups[row.pool, row.tenants].append(row)
        begun: dict[uuid.UUID, Runnable] = {}
        accepted: list[TaskChanges] = []
        claims: list[NewClaim] = []
        for (pool, tenants), claimers in groups.items():
            picked = await self._store.pick(connection, pool, tenants, len(claimers))
            for row, runnable in zip(claimers, picked, strict=False):
                changes = TaskChanges(runnable.task)
                changes.start_attempt(lifecycle.claim(runnable.task.status), sessions[row.session_id])
                accepted.append(changes)
                claims.append(
                    NewClaim(
                        claim_id=row.claim_id,
                        session_id=row.session_id,
                        tenant=changes.task.tenant,
                        task_id=changes.task.task_id,
                        attempt=changes.task.status.attempt,
                    )
                )
                begun[row.claim_id] = runnable.begun(changes.task)
        if accepted:
            await self._store.write(connection, accepted, claims)
        return begun


def _refusal(row: ClaimRequest, sessions: Mapping[uuid.UUID, Session]) -> DomainError | None:
    session = sessions.get(row.session_id)
    if session is None or session.subject != row.subject:
        return session_not_found(row.session_id)
    if row.pool not in session.pools:
        return pool_forbidden(row.pool)
    return None
