"""One WorkerSession stream: heartbeats in, leases and directives out."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from interlock.common.cancellation import end
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from orchestrator_svc.attempts import Attempts, AttemptWrite, Release
from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import AttemptRef, LiveAttempt, Session
from orchestrator_svc.rights import HeldAttempt, Rights
from orchestrator_svc.sessions import Sessions
from svc_kit.errors import Aborted
from svc_kit.wakeup import Subscription

# Heartbeats per lease: three may get lost on the way.
_BEATS_A_LEASE = 4
# An attempt token is renewed when this part of its time is over.
_RENEW_PART = 0.5

AttemptName = tuple[str, int]


class WorkerStream:
    """Answers every heartbeat, and tells at once what attempts have to wind up."""

    def __init__(
        self,
        *,
        session: Session,
        sessions: Sessions,
        attempts: Attempts,
        rights: Rights,
        woken: Subscription,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._sessions = sessions
        self._attempts = attempts
        self._rights = rights
        self._woken = woken
        self._monotonic = monotonic
        self._beat: messages.Heartbeat | None = None
        self._closed = False
        self._renewed = monotonic()
        # What each attempt that is not just to go on was told last.
        self._told: dict[AttemptRef, messages.Directive.ValueType] = {}
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
                elif not self._closed and (directives := await self._news()):
                    yield self._response(directives)
        finally:
            await end(reader)

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
        # Said again with every beat: the answer to a claim may have been on its way when it was said first.
        directives = self._direct(live, again=beat is not None)
        if beat is not None:
            reported = {(each.task_id, each.attempt) for each in beat.attempts}
            await self._give_back(
                ref for ref in live if _name(ref) not in reported and self._is_old(live[ref])
            )
            known = {_name(ref) for ref in live}
            directives += [
                _directive(attempt, messages.DIRECTIVE_STOP) for attempt in sorted(reported - known)
            ]
            live = {ref: attempt for ref, attempt in live.items() if _name(ref) in reported}
        return self._response([*directives, *self._renew(live)])

    def _is_old(self, attempt: LiveAttempt) -> bool:
        """Whether the worker has had a whole lease to speak of it."""
        return attempt.age > self._sessions.lease

    async def _give_back(self, orphans: Iterable[AttemptRef]) -> None:
        """Attempts that the worker does not know: the answer to their claim never reached it."""
        for ref in orphans:
            held = HeldAttempt(ref=ref, session_id=self._session.session_id, subject=self._session.subject)
            with contextlib.suppress(Aborted):  # it ended by itself meanwhile
                await self._attempts.write(AttemptWrite(held=held, end=Release()))

    async def _news(self) -> list[messages.AttemptDirective]:
        return self._direct(await self._sessions.attempts(self._session.session_id))

    def _direct(
        self, live: Mapping[AttemptRef, LiveAttempt], *, again: bool = False
    ) -> list[messages.AttemptDirective]:
        """What the worker has not been told yet of attempts that have to wind up, or need not any more."""
        wanted = {ref: _wanted(attempt) for ref, attempt in live.items()}
        before = self._told
        self._told = {ref: what for ref, what in wanted.items() if what != messages.DIRECTIVE_CONTINUE}
        # Whatever had to wind up and is not live any more has wound up, or was ended.
        over = [_directive(_name(ref), messages.DIRECTIVE_STOP) for ref in before.keys() - wanted.keys()]
        return over + [
            _directive(_name(ref), what)
            for ref, what in wanted.items()
            if what != before.get(ref, messages.DIRECTIVE_CONTINUE) or (again and ref in self._told)
        ]

    def _renew(self, live: Mapping[AttemptRef, LiveAttempt]) -> list[messages.AttemptDirective]:
        """New tokens for attempts whose token this stream did not see issued, or whose token gets old."""
        now = self._monotonic()
        directives = []
        for ref in live:
            if self._renew_at.get(ref, now) <= now:
                held = HeldAttempt(
                    ref=ref, session_id=self._session.session_id, subject=self._session.subject
                )
                directive = _directive(_name(ref), _wanted(live[ref]))
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


def _wanted(attempt: LiveAttempt) -> messages.Directive.ValueType:
    if attempt.state is TaskState.CANCELING:
        return messages.DIRECTIVE_CANCEL
    return messages.DIRECTIVE_PAUSE if attempt.pausing else messages.DIRECTIVE_CONTINUE


def _name(ref: AttemptRef) -> AttemptName:
    return str(ref.task_id), ref.attempt


def _directive(attempt: AttemptName, directive: messages.Directive.ValueType) -> messages.AttemptDirective:
    task_id, number = attempt
    return messages.AttemptDirective(
        attempt=messages.AttemptRef(task_id=task_id, attempt=number), directive=directive
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
