"""Claims tasks until nothing is runnable, and runs them side by side up to the worker's capacity."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator

import grpc
import structlog

from interlock.orchestrator.v1 import worker_service_pb2 as messages
from svc_kit.status import from_rpc_error
from worker_svc.attempts import Attempt, Attempts
from worker_svc.orchestrator import Orchestrator
from worker_svc.runner import Runner
from worker_svc.session import Session

_LOG = structlog.get_logger(__name__)

_IDLE_SECONDS = 1.0


class Claims:
    """Lives on the loop that runs the agents."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        runner: Runner,
        session: Session,
        attempts: Attempts,
        capacity: int,
    ) -> None:
        self._orchestrator = orchestrator
        self._runner = runner
        self._session = session
        self._attempts = attempts
        self._slots = asyncio.Semaphore(capacity)
        self._running: set[asyncio.Task[None]] = set()
        self._claiming: set[str] = set()
        self._nudged: set[str] = set()
        # By pool, the session and claim id of a claim that was not answered.
        self._unanswered: dict[str, tuple[str, str]] = {}
        self._draining = asyncio.Event()  # it stops
        self._drained = False  # an operator wants it to take nothing, as the last claim was told
        # Set while no claim is under way.
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def taking(self) -> bool:
        """Whether tasks are taken, as far as is known: not when the worker stops, or was drained."""
        return not (self._draining.is_set() or self._drained)

    async def claim_all(self, pool: str) -> bool:
        """Claim from a pool until nothing is runnable; returns while the last ones still run.

        False when this worker takes no tasks: whatever made it look is for another one.
        One claimer a pool is enough: a nudge that finds it at work lets it look once more, for what the nudge
        is about may have been committed after it looked.
        """
        self._nudged.add(pool)
        if pool in self._claiming or self._draining.is_set():
            return self.taking
        self._claiming.add(pool)
        try:
            while pool in self._nudged:
                self._nudged.discard(pool)
                while await self._claim_one(pool):
                    pass
        finally:
            self._claiming.discard(pool)
        return self.taking

    async def claim_idly(self, pools: tuple[str, ...], *, taking: Callable[[], None]) -> None:
        """Claim once a second, for nudges that were lost; returns when the worker drains.

        Says so when tasks are taken. Not to be cancelled: a claim that is torn off may have taken a task,
        which nobody would then run.
        """
        while not self._draining.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_SECONDS):
                    await self._draining.wait()
            for pool in pools:
                if await self.claim_all(pool):
                    taking()

    async def drain(self, grace: float) -> None:
        """Claim no more; wait for what runs, and give back what does not end in time."""
        self._draining.set()
        # A claim that is under way may still bring a task; it is given back.
        await self._quiet.wait()
        for pool, (session_id, claim_id) in self._unanswered.items():
            await self._give_back_unanswered(pool, session_id, claim_id)
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=5.0)

    async def _claim_one(self, pool: str) -> bool:
        """Claim and start one task; False when nothing was runnable."""
        await self._slots.acquire()
        started = False
        try:
            session_id = self._session.session_id
            if session_id is None or self._draining.is_set():
                return False
            with self._claim_under_way():
                claim_id = self._claim_id(pool, session_id)
                try:
                    answer = await self._orchestrator.claim(
                        session_id=session_id, pool=pool, claim_id=claim_id
                    )
                except grpc.aio.AioRpcError as error:
                    _LOG.debug("claim_failed", error=str(from_rpc_error(error)))
                    return False
                self._unanswered.pop(pool)
                self._drained = answer.draining
                if not answer.HasField("claimed"):
                    return False
                claimed = answer.claimed
                if self._draining.is_set():
                    await self._give_back(claimed)
                    return False
            attempt = Attempt(claimed=claimed, token=claimed.attempt_token, loop=asyncio.get_running_loop())
            self._attempts.add(attempt)
            running = asyncio.create_task(self._run(attempt))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
            started = True
            return True
        finally:
            if not started:
                self._slots.release()

    def _claim_id(self, pool: str, session_id: str) -> str:
        """That of the last claim if its answer was lost, since it may have taken a task; else a new one."""
        session, claim_id = self._unanswered.get(pool, ("", ""))
        if session != session_id:
            claim_id = str(uuid.uuid4())
            self._unanswered[pool] = (session_id, claim_id)
        return claim_id

    @contextlib.contextmanager
    def _claim_under_way(self) -> Iterator[None]:
        self._under_way += 1
        self._quiet.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()

    async def _give_back_unanswered(self, pool: str, session_id: str, claim_id: str) -> None:
        """Ask again for the answer that was lost: it may name a task that stands as ours."""
        try:
            answer = await self._orchestrator.claim(session_id=session_id, pool=pool, claim_id=claim_id)
        except grpc.aio.AioRpcError as error:
            _LOG.debug("claim_failed", error=str(from_rpc_error(error)))
            return
        if answer.HasField("claimed"):
            await self._give_back(answer.claimed)

    async def _give_back(self, claimed: messages.ClaimedTask) -> None:
        try:
            await self._orchestrator.release(claimed.attempt_token)
        except grpc.aio.AioRpcError as error:
            _LOG.warning("release_failed", task_id=claimed.task_id, error=str(from_rpc_error(error)))

    async def _run(self, attempt: Attempt) -> None:
        try:
            await self._runner.run(attempt)
        finally:
            self._attempts.remove(attempt)
            self._slots.release()
