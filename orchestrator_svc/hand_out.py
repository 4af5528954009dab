"""Giving the tasks of one queue after the other to the claims that wait, within one transaction."""

import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.dispatch import Candidate, choose
from orchestrator_svc.records import Claimer, ClaimRequest, HeldQueue, Runnable, Turn, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A claim and the task that it got."""

    request: ClaimRequest
    claimer: Claimer
    runnable: Runnable


class Queues(Protocol):
    """What is asked of the store, which says what each does."""

    async def may_take_suspect(self, connection: AsyncConnection, session_id: uuid.UUID) -> bool: ...
    async def running(self, connection: AsyncConnection, turn: Turn) -> dict[str, int]: ...
    async def pick(
        self, connection: AsyncConnection, turn: Turn, *, limit: int, suspects: bool
    ) -> list[Runnable]: ...
    async def candidates(
        self, connection: AsyncConnection, turn: Turn, waiting: Waiting
    ) -> list[Candidate]: ...
    async def take(self, connection: AsyncConnection, task_ids: Sequence[uuid.UUID]) -> list[Runnable]: ...
    async def spend(
        self, connection: AsyncConnection, turn: Turn, turns: Sequence[str], *, started: int
    ) -> None: ...


class HandOut:
    """Serves claims of one pool; a session with a suspect aboard gets no second one."""

    def __init__(
        self,
        queues: Queues,
        connection: AsyncConnection,
        waiting: Iterable[tuple[ClaimRequest, Claimer]],
    ) -> None:
        self._queues = queues
        self._connection = connection
        self._left = deque(waiting)
        self._with_suspect = {claimer.session.session_id for _, claimer in self._left if claimer.suspect}
        self.served: list[Served] = []
        # Queues whose next task nobody here may take: what is behind it has to be looked at afresh.
        self.unfinished: list[Turn] = []

    async def serve(self, turns: Sequence[Turn], held: Mapping[tuple[str, str], HeldQueue]) -> None:
        """Give out what the queues have, in order, until every claim is served; managed ones are held."""
        for turn in turns:
            if not self._left:
                return
            if not turn.managed:
                picked = await self._queues.pick(
                    self._connection, turn, limit=len(self._left), suspects=self._suspects
                )
                await self._give(turn, picked)
            elif (queue := held.get((turn.tenant, turn.queue))) is not None and not queue.paused:
                await self._serve_managed(turn, queue)

    @property
    def _suspects(self) -> bool:
        """Whether anybody may take a suspect."""
        return any(claimer.session.session_id not in self._with_suspect for _, claimer in self._left)

    async def _serve_managed(self, turn: Turn, queue: HeldQueue) -> None:
        running = await self._queues.running(self._connection, turn)
        room = len(self._left)
        if queue.max_running is not None:
            room = min(room, queue.max_running - sum(running.values()))
        if queue.tokens is not None:
            room = min(room, queue.tokens)
        if room <= 0:
            return
        full = (key for key, count in running.items() if key and count >= queue.max_running_per_key)
        waiting = Waiting(
            limit=room,
            per_key=queue.max_running_per_key,
            turns=queue.turns,
            full=tuple(full),
            suspects=self._suspects,
        )
        choice = choose(
            await self._queues.candidates(self._connection, turn, waiting),
            room=room,
            max_running_per_key=queue.max_running_per_key,
            running=running,
            turns=queue.turns,
        )
        if choice.task_ids:
            taken = await self._queues.take(self._connection, choice.task_ids)
            started = await self._give(turn, taken)
            await self._queues.spend(self._connection, turn, choice.turns, started=started)

    async def _give(self, turn: Turn, picked: Sequence[Runnable]) -> int:
        """Hand these out; how many found a taker. The others stay as they are."""
        before = len(self.served)
        for runnable in picked:
            place = await self._taker(suspect=runnable.alone)
            if place is None:
                self.unfinished.append(turn)
                continue
            request, claimer = self._left[place]
            del self._left[place]
            self.served.append(Served(request=request, claimer=claimer, runnable=runnable))
        return len(self.served) - before

    async def _taker(self, *, suspect: bool) -> int | None:
        """The place of the claim that gets the next task."""
        if not suspect:
            return 0
        for place, (request, _) in enumerate(self._left):
            session_id = request.session_id
            if session_id in self._with_suspect:
                continue
            self._with_suspect.add(session_id)
            if await self._queues.may_take_suspect(self._connection, session_id):
                return place
        return None
