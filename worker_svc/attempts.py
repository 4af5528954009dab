"""The attempts that run in this process: shared by the agents' loop and the session's thread."""

import asyncio
import threading
from dataclasses import dataclass, field

from interlock.common.v1 import permit_pb2
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from worker_svc.errors import AttemptCanceled, AttemptPaused, StaleAttempt

Order = StaleAttempt | AttemptCanceled | AttemptPaused
# Directives about attempts whose claim is not answered yet; a worker has at most as many claims under way.
_MAX_EARLY = 1000


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One claimed task while it runs here."""

    claimed: messages.ClaimedTask
    token: permit_pb2.Signed
    loop: asyncio.AbstractEventLoop
    task: "asyncio.Task[None] | None" = None
    # Why the attempt was told to end; the first order stands.
    ordered: Order | None = field(default=None)
    # True while no further step may begin: the task is to be paused.
    pausing: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """What names the attempt to the orchestrator."""
        return self.claimed.task_id, self.claimed.attempt

    def start(self) -> None:
        """Take orders from now on, in the task that calls this; one that came before is obeyed here."""
        self.task = asyncio.current_task()
        if self.ordered is not None:
            raise asyncio.CancelledError

    def order(self, why: Order) -> None:
        """End the attempt; from any thread."""
        self.loop.call_soon_threadsafe(self._order, why)

    def _order(self, why: Order) -> None:
        # A stale attempt outranks all: it must not write any more. A cancel outranks a pause.
        if self.ordered is None or isinstance(why, StaleAttempt) or isinstance(self.ordered, AttemptPaused):
            self.ordered = why
            if self.task is not None:
                self.task.cancel()


class Attempts:
    """All attempts of this process; safe to use from both threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Attempt] = {}
        self._early: dict[tuple[str, int], messages.AttemptDirective] = {}

    def add(self, attempt: Attempt) -> None:
        """Remember an attempt before it starts, so that the next heartbeat names it."""
        with self._lock:
            self._running[attempt.key] = attempt
            early = self._early.pop(attempt.key, None)
        if early is not None:
            _obey(attempt, early)

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
        for directive in directives:
            key = (directive.attempt.task_id, directive.attempt.attempt)
            with self._lock:
                attempt = self._running.get(key)
                # The answer to its claim may still be on its way: it is told when it starts.
                if attempt is None and directive.directive in _KEPT and len(self._early) < _MAX_EARLY:
                    self._early[key] = directive
            if attempt is not None:
                _obey(attempt, directive)

    def stop_all(self, why: str) -> None:
        """End every attempt without a word to the orchestrator: the lease is gone."""
        for attempt in self.all():
            attempt.order(StaleAttempt(why))


_KEPT = frozenset({messages.DIRECTIVE_CANCEL, messages.DIRECTIVE_PAUSE})


def _obey(attempt: Attempt, directive: messages.AttemptDirective) -> None:
    if directive.HasField("attempt_token"):
        attempt.token = directive.attempt_token
    if directive.directive == messages.DIRECTIVE_STOP:
        attempt.order(StaleAttempt("the orchestrator says that the attempt is not live any more"))
    elif directive.directive == messages.DIRECTIVE_CANCEL:
        attempt.order(AttemptCanceled("the task was canceled"))
    else:
        attempt.pausing = directive.directive == messages.DIRECTIVE_PAUSE
