"""One call, from its permit to its receipt: every step in its order.

Nothing before the write-ahead has an effect, and whatever fails before it leaves the call closed.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from gateway_svc.errors import (
    NOT_STARTED,
    UNKNOWN,
    QuotaExceededError,
    broken,
    is_recorded,
    outcome_error,
    with_state,
    with_verdict,
)
from gateway_svc.measures import Measures
from gateway_svc.pipeline.admission import Admission
from gateway_svc.pipeline.attempt import AttemptCheck
from gateway_svc.pipeline.flights import Flights
from gateway_svc.pipeline.outcome import Outcomes
from gateway_svc.pipeline.pending import Begun, Cleared, Pending
from gateway_svc.pipeline.permit import PermitCheck, check_unexpired
from gateway_svc.pipeline.refusal import Refusal
from gateway_svc.pipeline.replay import Replay
from gateway_svc.pipeline.result import lost
from gateway_svc.pipeline.write_ahead import WriteAhead
from gateway_svc.tool_call import Asked, CallStatus, Outcome, ToolCall
from gateway_svc.verdicts import Verdicts
from interlock.common.v1.permit_pb2 import Signed
from svc_kit.clock import Clock
from svc_kit.errors import DomainError
from svc_kit.identity.principal import Principal

log = structlog.get_logger(__name__)

# Of callers that name no deadline.
_DEFAULT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An ended call; `replayed` when it was under way or stored before."""

    outcome: Outcome
    replayed: bool


class Work(Protocol):
    """What differs between calls of tools and of models: steps 4 to 6, and 11 to 12."""

    async def clear(self, pending: Pending) -> Cleared:
        """Every check before the write-ahead, each with its verdict; raises the refusal."""

    async def confirm(self, cleared: Cleared) -> None:
        """What may have changed during the write-ahead, again."""

    async def may_repeat(self, asked: Asked) -> bool:
        """Whether a call of unknown outcome may run again."""

    async def perform(self, begun: Begun) -> Outcome:
        """How it ended, without the receipt; raises a DomainError only when nothing was executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps, in the order in which they are taken."""

    admission: Admission
    permits: PermitCheck
    attempts: AttemptCheck
    flights: Flights[Answer]
    replay: Replay
    work: Work
    write_ahead: WriteAhead
    outcomes: Outcomes
    refusal: Refusal


class ExecuteCall:
    """Takes one call through the steps."""

    def __init__(self, steps: Steps, clock: Clock, measures: Measures) -> None:
        self._steps = steps
        self._clock = clock
        self._measures = measures

    async def __call__(
        self, signed: Signed, arguments_json: str, caller: Principal, seconds: float | None
    ) -> Answer:
        """The ended call, unless its outcome is an error; every error says how far the call came."""
        try:
            with self._steps.admission.door():
                answer = await self._admitted(signed, arguments_json, caller, seconds or _DEFAULT_SECONDS)
        except DomainError as error:
            with_verdict(with_state(error, NOT_STARTED))
            self._measures.count(error.reason_name)
            raise
        except Exception:
            # Beyond the write-ahead nothing but outcomes comes out of a flight.
            log.exception("call_failed")
            raise with_state(broken(), NOT_STARTED) from None
        self._measures.count(answer.outcome.reason or answer.outcome.status)
        failure = outcome_error(answer.outcome)
        if failure is not None:
            raise failure
        return answer

    async def _admitted(
        self, signed: Signed, arguments_json: str, caller: Principal, seconds: float
    ) -> Answer:
        deadline = time.monotonic() + seconds
        permit, asked = await self._steps.permits.read(signed)
        pending = Pending(
            asked=asked,
            permit=permit,
            caller=caller.subject,
            arguments_json=arguments_json,
            deadline=deadline,
            verdicts=Verdicts(),
        )
        async with self._refusals_recorded(pending):
            self._steps.permits.check(pending, caller, self._clock.now())
            await self._steps.attempts.catch_up(asked)
            self._steps.attempts.check(pending)
            self._steps.flights.check(pending.asked)
        answer, joined = await self._steps.flights.join(pending.asked, lambda: self._fly(pending))
        return Answer(outcome=answer.outcome, replayed=answer.replayed or joined)

    async def _fly(self, pending: Pending) -> Answer:
        """Steps 3 to 13, whoever still waits for them."""
        with self._steps.admission.flight(pending.asked.tenant):
            return await self._flown(pending)

    async def _flown(self, pending: Pending) -> Answer:
        while True:
            async with self._refusals_recorded(pending):
                stored = await self._steps.replay.find(pending)
            if stored is not None and stored.outcome is not None and not await self._may_repeat(stored):
                return Answer(outcome=stored.outcome, replayed=True)
            async with self._steps.admission.place(pending.asked.tenant, pending.seconds_left()):
                async with self._refusals_recorded(pending):
                    cleared = await self._steps.work.clear(pending)
                begun = await self._begin(cleared, repeatable=stored is not None)
                if begun is not None:
                    await self._confirm(begun)
                    return Answer(outcome=await self._perform(begun), replayed=False)

    async def _begin(self, cleared: Cleared, *, repeatable: bool) -> Begun | None:
        """Steps 8 and 9."""
        with self._measures.step("write_ahead"):
            try:
                return await self._steps.write_ahead.begin(cleared, repeatable=repeatable)
            except QuotaExceededError as error:
                recorded = self._steps.refusal.record_once(cleared.pending, error)
                await self._steps.flights.finish(recorded)
                raise

    async def _confirm(self, begun: Begun) -> None:
        """The end of step 9: attempt, status, policy and permit may have changed during the write-ahead."""
        cleared = begun.cleared
        pending = cleared.pending
        try:
            self._steps.attempts.check(pending)
            await self._steps.work.confirm(cleared)
            check_unexpired(pending, self._clock.now())
        except Exception as error:
            refusal = error if isinstance(error, DomainError) else broken()
            verdicts = pending.verdicts
            call = replace(
                begun.call,
                verdicts=verdicts.all(),
                policy_ids=verdicts.policy_ids,
                shadow_policy_ids=verdicts.shadow_policy_ids,
            )
            await self._steps.write_ahead.withdraw(call, refusal)
            raise

    async def _perform(self, begun: Begun) -> Outcome:
        """Steps 11 to 13: once the program was started there is an outcome, whatever happens."""
        try:
            with self._measures.step("run"):
                outcome = await self._steps.work.perform(begun)
        except DomainError as error:
            # Raised only when nothing was executed.
            await self._steps.write_ahead.withdraw(begun.call, error)
            raise
        except Exception:
            log.exception("call_lost", call_id=str(begun.call.asked.call_id))
            outcome = lost(now=self._clock.now())
        with self._measures.step("store"):
            stored = await self._steps.outcomes.store(begun, outcome)
        return stored if stored is not None else await self._standing(begun)

    async def _standing(self, begun: Begun) -> Outcome:
        """What stands in the place of a call that was given up for lost while it ran."""
        try:
            stored = await self._steps.replay.find(begun.cleared.pending)
        except DomainError as error:
            raise with_state(error, UNKNOWN) from None
        except Exception:
            log.exception("tool_call_not_found_again", call_id=str(begun.call.asked.call_id))
            stored = None
        if stored is None or stored.outcome is None:
            return lost(now=self._clock.now())
        return stored.outcome

    async def _may_repeat(self, stored: ToolCall) -> bool:
        """Whether a call of unknown outcome may run again; raises POLICY_STALE when its tool is not known."""
        if stored.status is not CallStatus.UNKNOWN:
            return False
        try:
            return await self._steps.work.may_repeat(stored.asked)
        except DomainError as error:
            raise with_state(error, UNKNOWN) from error

    @asynccontextmanager
    async def _refusals_recorded(self, pending: Pending) -> AsyncIterator[None]:
        """A check that refuses, or fails in whatever way, leaves one record of the call that it stopped."""
        try:
            yield
        except DomainError as error:
            if is_recorded(error):
                await self._steps.flights.finish(self._steps.refusal.record(pending, error))
            raise
        except Exception:
            log.exception("check_failed", call_id=str(pending.asked.call_id))
            failure = broken()
            await self._steps.flights.finish(self._steps.refusal.record(pending, failure))
            raise failure from None
