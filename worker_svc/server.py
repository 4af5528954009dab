"""Wires a worker process and runs it until it is told to stop."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import structlog
import uvloop

from interlock.client.registry_feed import RegistryFeed
from interlock.common.cancellation import end
from svc_kit.background import background
from svc_kit.clients import TokenFile, channel
from svc_kit.logging import configure_logging
from worker_svc.attempts import Attempts
from worker_svc.claims import Claims
from worker_svc.config import WorkerSettings
from worker_svc.gateway import Gateway
from worker_svc.nudges import Nudges
from worker_svc.orchestrator import Orchestrator
from worker_svc.progress import Progress
from worker_svc.runner import Runner
from worker_svc.runtimes.python import TrustedAgents
from worker_svc.runtimes.sandboxed import SandboxedAgents
from worker_svc.session import Session

_LOG = structlog.get_logger(__name__)
_BEAT_SECONDS = 0.1


class AgentLoop:
    """The thread and loop that run the agents, and how late that loop is."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="agents", daemon=True)
        self._beat = time.monotonic()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()
        self.submit(self._keep_beat())

    def submit(self, work: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Run something on the loop, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def call(self, callback: Callable[[], object]) -> None:
        """Have the loop call something soon, from any thread."""
        self._loop.call_soon_threadsafe(callback)

    def lag(self) -> float:
        """Seconds by which the loop is late now; 0 when it keeps up."""
        return max(0.0, time.monotonic() - self._beat - _BEAT_SECONDS)

    def stop(self) -> None:
        """Stop the thread; what still runs on the loop is dropped."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)

    async def _keep_beat(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)


def serve(settings: WorkerSettings) -> int:
    """Run the worker until SIGTERM or SIGINT; the exit code."""
    configure_logging(service="worker", level=settings.log_level, log_format=settings.log_format)
    stop = asyncio.Event()
    agents = AgentLoop()
    agents.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agents.call(stop.set))
    attempts = Attempts()
    session = Session(settings, attempts, token=_token(settings), loop_lag=agents.lag)
    session.start()
    try:
        agents.submit(_work(settings, agents, session, attempts, stop)).result()
    finally:
        session.close()
        agents.stop()
    return 0


async def _work(
    settings: WorkerSettings, agents: AgentLoop, session: Session, attempts: Attempts, stop: asyncio.Event
) -> None:
    if not settings.redis_url:
        raise SystemExit("worker: set INTERLOCK_WORKER_REDIS_URL")
    async with contextlib.AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(_peer(settings, settings.orchestrator_address))
        gateway = await stack.enter_async_context(_peer(settings, settings.gateway_address))
        registry = await stack.enter_async_context(_peer(settings, settings.registry_address))
        feed = await stack.enter_async_context(RegistryFeed(registry))
        caller = Orchestrator(orchestrator)
        progress = Progress(caller.emit_progress)
        sandboxed = SandboxedAgents(capacity=settings.capacity)
        stack.push_async_callback(sandboxed.close)
        claims = Claims(
            orchestrator=caller,
            runner=Runner(
                orchestrator=caller,
                progress=progress,
                gateway=Gateway(gateway),
                registry=feed,
                trusted=TrustedAgents(settings.trusted_agents),
                sandboxed=sandboxed,
            ),
            session=session,
            attempts=attempts,
            capacity=settings.capacity,
        )
        if not await _before_stop(stop, _can_work(session, feed)):
            return
        nudges = Nudges(
            settings.redis_url, settings.pools, lambda pool: agents.submit(claims.claim_all(pool)).result()
        )
        async with (
            background(progress.run, name="progress"),
            nudges.running(),
            asyncio.TaskGroup() as group,
        ):
            group.create_task(claims.claim_idly(settings.pools, taking=nudges.take))
            stack.enter_context(_telling_ready(settings.ready_file))
            _LOG.info("worker_started", slot=settings.slot, pools=settings.pools, capacity=settings.capacity)
            await stop.wait()
            _LOG.info("worker_draining", running=len(attempts.all()))
            nudges.leave()
            await claims.drain(settings.drain_seconds)


async def _can_work(session: Session, feed: RegistryFeed) -> None:
    """Return once tasks can be claimed, and the agents that they name are known."""
    await feed.wait_ready()
    while not await asyncio.to_thread(session.wait_open, _BEAT_SECONDS):
        pass


async def _before_stop(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` was done before the stop came; it is cancelled otherwise."""
    tasks = (asyncio.create_task(work), asyncio.create_task(stop.wait()))
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await end(*pending)
    if tasks[0] in done:
        # What it raised is raised here.
        await tasks[0]
        return True
    return False


def _peer(settings: WorkerSettings, address: str) -> grpc.aio.Channel:
    return channel(
        address,
        _token(settings),
        allow_plaintext_beyond_loopback=settings.allow_plaintext_beyond_loopback,
    )


@contextlib.contextmanager
def _telling_ready(file: Path | None) -> Iterator[None]:
    """Have the file exist while the worker takes tasks: it has no door at which its health could be asked."""
    if file is None:
        yield
        return
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _token(settings: WorkerSettings) -> TokenFile:
    if settings.token_file is None:
        raise SystemExit("worker: set INTERLOCK_WORKER_TOKEN_FILE")
    return TokenFile(settings.token_file)
