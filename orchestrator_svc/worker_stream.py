"""One WorkerSession stream: heartbeats in, leases and directives out."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

from google.protobuf.duration_pb2 import Duration

from interlock.orchestrator.v1 import worker_service_pb2 as messages
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import AttemptRef, Session
from orchestrator_svc.rights import HeldAttempt, Rights
from orchestrator_svc.sessions import Sessions
from svc_kit.wakeup import Subscription

# Heartbeats per lease: three may get lost on the way.
_BEATS_A_LEASE = 4
# An attempt token is renewed when this part of its time is over.
_RENEW_PART = 0.5

Attempt = tuple[str, int]


class WorkerStream:
    """Answers every heartbeat, and tells at once what attempts have to wind up."""

    def __init__(
        self,
        *,
        session: Session,
        sessions: Sessions,
        rights: Rights,
        woken: Subscription,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._sessions = sessions
        self._rights = rights
        self._woken = woken
        self._monotonic = monotonic
        self._beat: messages.Heartbeat | None = None
        self._closed = False
        self._renewed = monotonic()
        self._told_to_cancel: set[AttemptRef] = set()
        self._renew_at: dict[AttemptRef, float] = {}

    async def run(
        self, requests: AsyncIterator[messages.WorkerSessionRequest]
    ) -> AsyncGenerator[messages.WorkerSessionResponse]:
        """Answers until the worker closes its side; raises SESSION_NOT_FOUND when the session has ended."""
        reader = asyncio.create_task(self._read(requests))
        try:
            yield await self._answer(None)
            while not self._closed:
                await self._woken.wait(self._sessions.lease)
                beat, self._beat = self._beat, None
                if beat is not None:
                    await self._sessions.renew(self._session.session_id, self._session.subject)
                    self._renewed = self._monotonic()
                    yield await self._answer(beat)
                elif not self._closed and (directives := await self._cancellations()):
                    yield self._response(directives)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[messages.WorkerSessionRequest]) -> None:
        try:
            async for request in requests:
                if request.HasField("heartbeat"):
                    # Only the newest counts: it says everything that an older one said.
                    self._beat = request.heartbeat
                    self._woken.wake()
        finally:
            self._closed = True
            self._woken.wake()

    async def _answer(self, beat: messages.Heartbeat | None) -> messages.WorkerSessionResponse:
        live = await self._sessions.attempts(self._session.session_id)
        directives = self._cancel(live)
        directives += self._renew(live)
        if beat is not None:
            known = {(str(ref.task_id), ref.attempt) for ref in live}
            directives += [
                _directive((each.task_id, each.attempt), messages.DIRECTIVE_STOP)
                for each in beat.attempts
                if (each.task_id, each.attempt) not in known
            ]
        return self._response(directives)

    async def _cancellations(self) -> list[messages.AttemptDirective]:
        return self._cancel(await self._sessions.attempts(self._session.session_id))

    def _cancel(self, live: dict[AttemptRef, TaskState]) -> list[messages.AttemptDirective]:
        canceling = {ref for ref, state in live.items() if state is TaskState.CANCELING}
        new = canceling - self._told_to_cancel
        self._told_to_cancel = canceling
        return [_directive(_name(ref), messages.DIRECTIVE_CANCEL) for ref in new]

    def _renew(self, live: dict[AttemptRef, TaskState]) -> list[messages.AttemptDirective]:
        """New tokens for attempts whose token this stream did not see issued, or whose token gets old."""
        now = self._monotonic()
        directives = []
        for ref in live:
            if self._renew_at.get(ref, now) <= now:
                held = HeldAttempt(
                    ref=ref, session_id=self._session.session_id, subject=self._session.subject
                )
                directive = _directive(_name(ref), messages.DIRECTIVE_CONTINUE)
                directive.attempt_token.CopyFrom(self._rights.attempt_token(held))
                directives.append(directive)
                self._renew_at[ref] = now + self._rights.token_seconds * _RENEW_PART
        self._renew_at = {ref: when for ref, when in self._renew_at.items() if ref in live}
        return directives

    def _response(self, directives: Sequence[messages.AttemptDirective]) -> messages.WorkerSessionResponse:
        left = max(0.0, self._sessions.lease - (self._monotonic() - self._renewed))
        return messages.WorkerSessionResponse(
            lease=_duration(left),
            heartbeat_interval=_duration(self._sessions.lease / _BEATS_A_LEASE),
            directives=directives,
        )


def _name(ref: AttemptRef) -> Attempt:
    return str(ref.task_id), ref.attempt


def _directive(attempt: Attempt, directive: messages.Directive.ValueType) -> messages.AttemptDirective:
    task_id, number = attempt
    return messages.AttemptDirective(
        attempt=messages.AttemptRef(task_id=task_id, attempt=number), directive=directive
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
