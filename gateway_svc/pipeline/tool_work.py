"""What a call of a tool is checked against, and how it is executed."""

from dataclasses import dataclass

import structlog

from gateway_svc.cedar.decision import Decision, strictest
from gateway_svc.cedar.text import DECIDER_ROLES
from gateway_svc.errors import asked_anew
from gateway_svc.measures import Measures
from gateway_svc.pipeline.approval import ApprovalCheck
from gateway_svc.pipeline.arguments import ArgumentCheck
from gateway_svc.pipeline.binding import Binding
from gateway_svc.pipeline.broker import Broker
from gateway_svc.pipeline.cancelable import CallCanceledError
from gateway_svc.pipeline.http_run import HttpRunner
from gateway_svc.pipeline.pending import Arguments, Begun, Cleared, Pending, Tool
from gateway_svc.pipeline.policy import PolicyCheck
from gateway_svc.pipeline.result import ResultCheck, canceled, lost
from gateway_svc.pipeline.run import ToolRunner
from gateway_svc.quotas import Ceiling, Gate, ceilings
from gateway_svc.tool_call import Asked, CallKind, Outcome
from gateway_svc.verdicts import Check
from interlock_sandbox import Outcome as SandboxOutcome
from svc_kit.clock import Clock

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A call that may start, if a person agrees where one has to."""

    tool: Tool
    arguments: Arguments
    decision: Decision
    approval_role: str
    """The least role that has to say yes; empty when nobody has to."""


class ToolWork:
    """Steps 4 to 6 and 11 to 12 for tools."""

    def __init__(
        self,
        *,
        binding: Binding,
        arguments: ArgumentCheck,
        policies: PolicyCheck,
        approvals: ApprovalCheck,
        runner: ToolRunner,
        broker: Broker,
        http: HttpRunner,
        results: ResultCheck,
        measures: Measures,
        clock: Clock,
    ) -> None:
        self._binding = binding
        self._arguments = arguments
        self._policies = policies
        self._approvals = approvals
        self._runner = runner
        self._broker = broker
        self._http = http
        self._results = results
        self._measures = measures
        self._clock = clock

    async def judge(self, pending: Pending) -> Judged:
        """The call, if every check that needs nobody's word lets it pass; raises the refusal."""
        await self._binding.catch_up(pending.asked)
        with self._measures.step("checks"):
            tool = self._binding.check(pending)
            arguments = self._arguments.check(pending, tool)
            decision = self._policies.check(pending, arguments)
            if tool.http is None:
                self._runner.check_reach(pending, tool)
            else:
                said = f"No code: the gateway sends one request through connection {tool.http.connection}."
                pending.verdicts.passed(Check.REACH, said)
        await self._broker.check_reach(pending, tool)
        return Judged(
            tool=tool, arguments=arguments, decision=decision, approval_role=_decider(tool, decision)
        )

    async def clear(self, pending: Pending) -> Cleared:
        """The call, if it passes; raises the refusal."""
        judged = await self.judge(pending)
        tool, arguments, decision = judged.tool, judged.arguments, judged.decision
        # Last: nobody is asked about a call that could not run anyway.
        approval_id = await self._approvals.check(
            pending, arguments, role=judged.approval_role, policy_ids=decision.policy_ids
        )
        return Cleared(
            pending=pending,
            called=tool,
            arguments=arguments,
            policy_ids=decision.policy_ids,
            approval_id=approval_id,
            approval_role=judged.approval_role,
            ceilings=_ceilings(pending.asked, tool),
        )

    async def confirm(self, cleared: Cleared) -> None:
        """Status and policy may have changed during the write-ahead, which has used up the approval."""
        tool = self._binding.check(cleared.pending)
        decision = self._policies.check(cleared.pending, cleared.arguments)
        if strictest([_decider(tool, decision), cleared.approval_role]) != cleared.approval_role:
            raise asked_anew()

    async def may_repeat(self, asked: Asked) -> bool:
        """Whether running the tool twice does no harm; raises POLICY_STALE when it is not known."""
        await self._binding.catch_up(asked)
        return self._binding.may_repeat(asked)

    async def perform(self, begun: Begun) -> Outcome:
        """The outcome, without its receipt; raises a DomainError only when nothing was executed."""
        tool = begun.cleared.called
        if not isinstance(tool, Tool):
            raise TypeError("this is a call of a model")
        if tool.http is not None:
            return await self._http.run(begun, tool, tool.http)
        try:
            ended = await self._runner.run(begun, tool, self._broker.host(begun, tool))
        except CallCanceledError as error:
            return canceled(now=self._clock.now(), isolation=self._runner.level, why=error.why)
        return self._judged(ended, tool, begun)

    def _judged(self, ended: SandboxOutcome, tool: Tool, begun: Begun) -> Outcome:
        now = self._clock.now()
        try:
            return self._results.judge(ended, tool, now=now)
        except Exception:
            log.exception("tool_result_lost", call_id=str(begun.call.asked.call_id))
            return lost(now=now, isolation=ended.level.name)


def _decider(tool: Tool, decision: Decision) -> str:
    """The least role that has to say yes; empty when nobody has to."""
    return strictest([decision.approval, DECIDER_ROLES[0] if tool.requires_approval else ""])


def _ceilings(asked: Asked, tool: Tool) -> tuple[Ceiling, ...]:
    return ceilings(
        Gate(asked.tenant, CallKind.TOOL, asked.tool),
        said_by="its publisher",
        max_running=tool.max_running,
        max_per_minute=tool.max_per_minute,
    )
