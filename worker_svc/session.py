"""The worker's session: heartbeats on a thread and loop of their own, so that no agent can starve them."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable

import grpc

from interlock.orchestrator.v1 import worker_service_pb2 as messages
from interlock.orchestrator.v1 import worker_service_pb2_grpc
from svc_kit.status import from_rpc_error
from worker_svc.attempts import Attempts
from worker_svc.config import WorkerSettings

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_SECONDS = 0.05
_LAST_WAIT_SECONDS = 1.0
_READY_SECONDS = 30.0


class Session:
    """Keeps one session open, and takes it up again on any replica when the stream breaks.

    When the lease has run out, or the orchestrator does not know the session, every attempt is ended here
    and a new session begins.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        attempts: Attempts,
        *,
        connect: Callable[[], grpc.aio.Channel],
        loop_lag: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._attempts = attempts
        self._connect = connect
        self._loop_lag = loop_lag
        self._incarnation = time.time_ns()
        self._session_id = str(uuid.uuid4())
        self._lease_ends = 0.0
        self._open = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)

    @property
    def session_id(self) -> str | None:
        """The open session, or None while there is none to claim under."""
        return self._session_id if self._open.is_set() else None

    def start(self) -> None:
        """Open the session in the background."""
        self._thread.start()

    def wait_open(self, timeout: float = _READY_SECONDS) -> bool:
        """Whether the session came open in time; blocks."""
        return self._open.wait(timeout)

    def close(self) -> None:
        """End the stream; the lease runs out by itself, or was given back with the last attempt."""
        if self._loop is not None and self._main is not None:
            self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._main = asyncio.create_task(self._keep())
            await asyncio.wait([self._main])

        asyncio.run(main())

    async def _keep(self) -> None:
        channel = self._connect()
        stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        wait = _FIRST_WAIT_SECONDS
        try:
            while True:
                try:
                    await self._follow(stub)
                    wait = _FIRST_WAIT_SECONDS
                except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
                    self._broken(error)
                if self._open.is_set() and time.monotonic() > self._lease_ends:
                    self._begin_anew("its lease has run out")
                await asyncio.sleep(wait)
                wait = min(wait * 2, _LAST_WAIT_SECONDS)
        finally:
            self._open.clear()
            await channel.close()

    def _broken(self, error: Exception) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            problem = from_rpc_error(error)
            if problem.reason == "SESSION_NOT_FOUND":
                self._begin_anew("the orchestrator does not know it any more")
            elif problem.code is not grpc.StatusCode.UNAVAILABLE:
                _LOG.warning("session refused: %s %s", problem.reason or problem.code, problem.message)
            return
        _LOG.debug("session stream broke: %r", error)

    def _begin_anew(self, why: str) -> None:
        _LOG.warning("session %s ended: %s", self._session_id, why)
        self._open.clear()
        self._attempts.stop_all(f"session {self._session_id} ended: {why}")
        self._session_id = str(uuid.uuid4())

    async def _follow(self, stub: "worker_service_pb2_grpc.WorkerServiceAsyncStub") -> None:
        stream = stub.WorkerSession()
        try:
            opened = messages.OpenSession(
                session_id=self._session_id,
                slot=self._settings.slot,
                incarnation=self._incarnation,
                pools=self._settings.pools,
                capacity=self._settings.capacity,
            )
            interval = await self._exchange(stream, messages.WorkerSessionRequest(open=opened))
            self._open.set()
            while True:
                await asyncio.sleep(interval)
                interval = await self._exchange(
                    stream, messages.WorkerSessionRequest(heartbeat=self._heartbeat())
                )
        finally:
            stream.cancel()

    async def _exchange(
        self,
        stream: grpc.aio.StreamStreamCall[messages.WorkerSessionRequest, messages.WorkerSessionResponse],
        request: messages.WorkerSessionRequest,
    ) -> float:
        """Send one message, obey the answer; seconds until the next one is due."""
        sent = time.monotonic()
        async with asyncio.timeout(5.0):
            await stream.write(request)
            answer = await stream.read()
        if not isinstance(answer, messages.WorkerSessionResponse):
            # The stream has ended; its status is raised here.
            await stream.wait_for_connection()
            raise asyncio.InvalidStateError("the orchestrator ended the session stream")
        # Counted from before the message left: the orchestrator's own count began later.
        self._lease_ends = sent + answer.lease.ToTimedelta().total_seconds()
        self._attempts.obey(list(answer.directives))
        return answer.heartbeat_interval.ToTimedelta().total_seconds()

    def _heartbeat(self) -> messages.Heartbeat:
        refs = [
            messages.AttemptRef(task_id=attempt.claimed.task_id, attempt=attempt.claimed.attempt)
            for attempt in self._attempts.all()
        ]
        beat = messages.Heartbeat(attempts=refs)
        beat.loop_lag.FromMicroseconds(int(self._loop_lag() * 1_000_000))
        return beat
