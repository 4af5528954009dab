"""One tool call, from its permit to its receipt: every step in its order.

Nothing before the write-ahead has an effect, and whatever fails before it leaves the call closed.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from gateway_svc.errors import (
    NOT_STARTED,
    broken,
    is_refusal,
    outcome_error,
    with_state,
    with_verdict,
)
from gateway_svc.measures import Measures
from gateway_svc.pipeline.admission import Admission
from gateway_svc.pipeline.arguments import ArgumentCheck
from gateway_svc.pipeline.binding import Binding
from gateway_svc.pipeline.flights import Flights
from gateway_svc.pipeline.outcome import Outcomes
from gateway_svc.pipeline.pending import Begun, Cleared, Pending
from gateway_svc.pipeline.permit import PermitCheck
from gateway_svc.pipeline.policy import PolicyCheck
from gateway_svc.pipeline.refusal import Refusal
from gateway_svc.pipeline.replay import Replay
from gateway_svc.pipeline.result import ResultCheck, lost
from gateway_svc.pipeline.run import ToolRunner
from gateway_svc.pipeline.write_ahead import WriteAhead
from gateway_svc.tool_call import CallStatus, Outcome, ToolCall
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps, in the order in which they are taken."""

    admission: Admission
    permits: PermitCheck
    flights: Flights[Answer]
    replay: Replay
    binding: Binding
    arguments: ArgumentCheck
    policies: PolicyCheck
    write_ahead: WriteAhead
    runner: ToolRunner
    results: ResultCheck
    outcomes: Outcomes
    refusal: Refusal


class ExecuteTool:
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
            log.exception("tool_call_failed")
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
        pending = Pending(
            asked=await self._steps.permits.read(signed),
            caller=caller.subject,
            arguments_json=arguments_json,
            deadline=deadline,
            verdicts=Verdicts(),
        )
        async with self._refusals_recorded(pending):
            await self._steps.permits.check(pending, signed, caller, self._clock.now())
            self._steps.flights.check(pending.asked)
        answer, joined = await self._steps.flights.join(pending.asked, lambda: self._fly(pending))
        return Answer(outcome=answer.outcome, replayed=answer.replayed or joined)

    async def _fly(self, pending: Pending) -> Answer:
        """Steps 3 to 13, whoever still waits for them."""
        while True:
            async with self._refusals_recorded(pending):
                stored = await self._steps.replay.find(pending)
            if stored is not None and stored.outcome is not None and not self._may_repeat(stored):
                return Answer(outcome=stored.outcome, replayed=True)
            async with self._steps.admission.place(pending.seconds_left()):
                async with self._refusals_recorded(pending):
                    await self._steps.binding.catch_up(pending.asked)
                    with self._measures.step("checks"):
                        cleared = self._clear(pending)
                with self._measures.step("write_ahead"):
                    begun = await self._steps.write_ahead.begin(cleared, repeatable=stored is not None)
                if begun is not None:
                    return Answer(outcome=await self._perform(begun), replayed=False)

    def _clear(self, pending: Pending) -> Cleared:
        """Steps 4 to 6, and the reach: what every call must pass before it is written ahead."""
        tool = self._steps.binding.check(pending)
        arguments = self._steps.arguments.check(pending, tool)
        decision = self._steps.policies.check(pending, arguments)
        self._steps.runner.check_reach(pending)
        return Cleared(pending=pending, tool=tool, arguments=arguments, decision=decision)

    async def _perform(self, begun: Begun) -> Outcome:
        """Steps 11 to 13: from here on there is an outcome, whatever happens."""
        now = self._clock.now
        try:
            with self._measures.step("run"):
                ended = await self._steps.runner.run(begun)
            outcome = self._steps.results.judge(ended, begun.cleared.tool, now=now())
        except DomainError as error:
            await self._steps.write_ahead.withdraw(begun.call, error)
            raise
        except Exception:
            log.exception("tool_call_lost", call_id=str(begun.call.asked.call_id))
            outcome = lost(now=now())
        with self._measures.step("store"):
            return await self._steps.outcomes.store(begun, outcome)

    def _may_repeat(self, stored: ToolCall) -> bool:
        return stored.status is CallStatus.UNKNOWN and self._steps.binding.may_repeat(stored.asked)

    @asynccontextmanager
    async def _refusals_recorded(self, pending: Pending) -> AsyncIterator[None]:
        try:
            yield
        except DomainError as error:
            if is_refusal(error):
                await self._steps.flights.finish(self._steps.refusal.record(pending, error))
            raise
