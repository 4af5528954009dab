"""The attempts that run in this process: shared by the agents' loop and the session's thread."""

import asyncio
import threading
from dataclasses import dataclass, field

from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from worker_svc.errors import AttemptCanceled, StaleAttempt


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One claimed task while it runs here."""

    claimed: messages.ClaimedTask
    token: permit_pb2.Signed
    loop: asyncio.AbstractEventLoop
    task: "asyncio.Task[None] | None" = None
    # Why the attempt was told to end; the first order stands.
    ordered: StaleAttempt | AttemptCanceled | None = field(default=None)

    @property
    def key(self) -> tuple[str, int]:
        """What names the attempt to the orchestrator."""
        return self.claimed.task_id, self.claimed.attempt

    def order(self, why: StaleAttempt | AttemptCanceled) -> None:
        """End the attempt; from any thread."""
        self.loop.call_soon_threadsafe(self._order, why)

    def _order(self, why: StaleAttempt | AttemptCanceled) -> None:
        # A stale attempt outranks a canceled one: it must not write any more.
        if self.ordered is None or isinstance(why, StaleAttempt):
            self.ordered = why
            if self.task is not None:
                self.task.cancel()


class Attempts:
    """All attempts of this process; safe to use from both threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Attempt] = {}

    def add(self, attempt: Attempt) -> None:
        """Remember an attempt before it starts, so that the next heartbeat names it."""
        with self._lock:
            self._running[attempt.key] = attempt

    def remove(self, attempt: Attempt) -> None:
        """Forget an attempt that has ended."""
        with self._lock:
            self._running.pop(attempt.key, None)

    def all(self) -> list[Attempt]:
        """Every attempt that runs now."""
        with self._lock:
            return list(self._running.values())

    def obey(self, directives: list[messages.AttemptDirective]) -> None:
        """Do what the orchestrator says of attempts."""
        running = {attempt.key: attempt for attempt in self.all()}
        for directive in directives:
            attempt = running.get((directive.attempt.task_id, directive.attempt.attempt))
            if attempt is None:
                continue
            if directive.HasField("attempt_token"):
                attempt.token = directive.attempt_token
            if directive.directive == messages.DIRECTIVE_STOP:
                attempt.order(StaleAttempt("the orchestrator says that the attempt is not live any more"))
            elif directive.directive == messages.DIRECTIVE_CANCEL:
                attempt.order(AttemptCanceled("the task was canceled"))

    def stop_all(self, why: str) -> None:
        """End every attempt without a word to the orchestrator: the lease is gone."""
        for attempt in self.all():
            attempt.order(StaleAttempt(why))
