"""Giving tasks to workers: one transaction decides for every worker that waits.

A queue without limits and keys is read past what others hold; of every other one the row is locked, and what
runs in it is counted: so limits hold exactly, whoever else claims. The queues of a pool take turns.
"""

import uuid
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc import lifecycle, metrics
from orchestrator_svc.announcements import Announcer
from orchestrator_svc.changes import TaskChanges
from orchestrator_svc.errors import pool_forbidden, session_not_found
from orchestrator_svc.hand_out import HandOut, Queues, Served
from orchestrator_svc.records import Claimer, ClaimKey, ClaimRequest, HeldQueue, NewClaim, Runnable, Turn
from svc_kit.errors import DomainError
from svc_kit.group_commit import GroupCommit, Observer

_ROW_BYTES = 1024
# Queues that one transaction looks at, if there are so many: the first may have nothing after all.
_LEAST_TURNS = 4


@dataclass(frozen=True, slots=True)
class Drained:
    """The answer to a worker that is to take nothing more."""


class ClaimStore(Queues, Protocol):
    """What is asked of the store, which says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def hold_sessions(
        self, connection: AsyncConnection, keys: Sequence[ClaimKey]
    ) -> tuple[dict[uuid.UUID, Claimer], set[ClaimKey]]: ...
    async def replays(
        self, connection: AsyncConnection, claims: Collection[ClaimKey]
    ) -> dict[ClaimKey, Runnable]: ...
    async def turns(self, connection: AsyncConnection, pool: str, tenants: Collection[str]) -> list[Turn]: ...
    async def hold_queues(
        self, connection: AsyncConnection, turns: Collection[Turn]
    ) -> dict[tuple[str, str], HeldQueue]: ...
    async def write(
        self, connection: AsyncConnection, accepted: Sequence[TaskChanges], claims: Sequence[NewClaim]
    ) -> None: ...


class Claims:
    """Hands out what is runnable; a task goes to one claimer only."""

    def __init__(self, *, store: ClaimStore, announcer: Announcer, observe: Observer | None = None) -> None:
        self._store = store
        self._announcer = announcer
        self._lane: GroupCommit[ClaimRequest, Runnable | Drained | None] = GroupCommit(
            self._commit,
            size_of=lambda _: _ROW_BYTES,
            tenant_of=lambda row: row.subject,
            observe=observe,
        )

    async def claim(self, request: ClaimRequest) -> Runnable | Drained | None:
        """The task whose attempt has begun, or None when nothing is runnable now.

        Raises SESSION_NOT_FOUND, POOL_FORBIDDEN or DATABASE_UNAVAILABLE.
        """
        return await self._lane.submit(request)

    async def close(self) -> None:
        """Answer whoever waits and take nothing more."""
        await self._lane.close()

    async def _commit(
        self, rows: Sequence[ClaimRequest]
    ) -> Sequence[Runnable | Drained | DomainError | None]:
        answers: dict[int, Runnable | Drained | DomainError | None] = {}
        tried: set[Turn] = set()
        while True:
            async with self._store.transaction() as connection:
                asking = [row for row in rows if id(row) not in answers]
                waiting = await self._known(connection, asking, answers)
                begun, more = await self._begin(connection, waiting, tried)
            if begun:
                for runnable in begun.values():
                    metrics.CLAIMED.labels(runnable.task.pool).inc()
                self._announcer.committed(runnable={})
            # A repeat within the batch is answered as the first is.
            by_claim = {_claim(row): begun[id(row)] for row in asking if id(row) in begun}
            answers |= {id(row): by_claim[_claim(row)] for row in asking if _claim(row) in by_claim}
            if not more or len(answers) == len(rows):
                return [answers.get(id(row)) for row in rows]

    async def _known(
        self,
        connection: AsyncConnection,
        rows: Sequence[ClaimRequest],
        answers: dict[int, Runnable | Drained | DomainError | None],
    ) -> list[tuple[ClaimRequest, Claimer]]:
        """Answer what is refused or was answered before; the first of each claim that is left."""
        claimers, answered = await self._store.hold_sessions(connection, [_claim(row) for row in rows])
        replays = await self._store.replays(connection, answered) if answered else {}
        waiting: dict[ClaimKey, tuple[ClaimRequest, Claimer]] = {}
        for row in rows:
            claimer = claimers.get(row.session_id)
            if claimer is None or claimer.session.subject != row.subject:
                answers[id(row)] = session_not_found(row.session_id)
            elif row.pool not in claimer.session.pools:
                answers[id(row)] = pool_forbidden(row.pool)
            elif _claim(row) in replays:
                answers[id(row)] = replays[_claim(row)]
            elif claimer.draining:
                answers[id(row)] = Drained()
            else:
                waiting.setdefault(_claim(row), (row, claimer))
        return list(waiting.values())

    async def _begin(
        self,
        connection: AsyncConnection,
        waiting: Sequence[tuple[ClaimRequest, Claimer]],
        tried: set[Turn],
    ) -> tuple[dict[int, Runnable], bool]:
        """Begin an attempt for as many claims as there are runnable tasks in the next queues.

        Also whether there are queues that were not asked yet.
        """
        groups: defaultdict[tuple[str, frozenset[str]], list[tuple[ClaimRequest, Claimer]]] = defaultdict(
            list
        )
        for row, claimer in waiting:
            groups[row.pool, row.tenants].append((row, claimer))
        plan: list[tuple[HandOut, list[Turn]]] = []
        more = False
        for (pool, tenants), claimers in groups.items():
            found = await self._store.turns(connection, pool, tenants)
            untried = [turn for turn in found if turn not in tried]
            turns = untried[: max(len(claimers), _LEAST_TURNS)]
            more = more or len(untried) > len(turns)
            tried.update(turns)
            plan.append((HandOut(self._store, connection, claimers), turns))
        # All at once and in one order, before any task is: whoever claims locks the same way.
        managed = {turn for _, turns in plan for turn in turns if turn.managed}
        held = await self._store.hold_queues(connection, managed) if managed else {}
        for hand_out, turns in plan:
            await hand_out.serve(turns, held)
            tried.difference_update(hand_out.unfinished)
            more = more or bool(hand_out.unfinished)
        served = [each for hand_out, _ in plan for each in hand_out.served]
        return await self._write(connection, served), more

    async def _write(self, connection: AsyncConnection, served: Sequence[Served]) -> dict[int, Runnable]:
        begun: dict[int, Runnable] = {}
        accepted: list[TaskChanges] = []
        claims: list[NewClaim] = []
        for each in served:
            changes = TaskChanges(each.runnable.task)
            changes.start_attempt(lifecycle.claim(changes.task.status), each.claimer.session)
            accepted.append(changes)
            claims.append(
                NewClaim(
                    claim_id=each.request.claim_id,
                    session_id=each.request.session_id,
                    tenant=changes.task.tenant,
                    task_id=changes.task.task_id,
                    attempt=changes.task.status.attempt,
                )
            )
            begun[id(each.request)] = each.runnable.begun(changes.task)
        if accepted:
            await self._store.write(connection, accepted, claims)
        return begun


def _claim(row: ClaimRequest) -> ClaimKey:
    return row.session_id, row.claim_id
