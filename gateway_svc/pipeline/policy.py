"""Step 6: a policy of the tenant allows this agent, this tool, these arguments."""

from typing import Protocol

from gateway_svc.cedar.decision import Decision, Question
from gateway_svc.errors import policy_denied
from gateway_svc.pipeline.pending import Arguments, Pending
from gateway_svc.verdicts import Check


class Policies(Protocol):
    """What this step asks of the live copy of the policies."""

    def decide(self, tenant: str, question: Question) -> Decision:
        """By the policies of a tenant; raises POLICY_STALE when they are not known well enough."""


class PolicyCheck:
    """Default deny."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def check(self, pending: Pending, arguments: Arguments) -> Decision:
        """The decision that allows it; raises POLICY_DENIED, or POLICY_STALE."""
        asked = pending.asked
        decision = self._policies.decide(
            asked.tenant,
            Question(
                agent=asked.agent,
                agent_version=asked.agent_version,
                tool=asked.tool,
                arguments=arguments.value,
                attempt=asked.attempt,
                submitter=asked.submitters[0] if asked.submitters else None,
            ),
        )
        pending.verdicts.policy_ids = decision.policy_ids
        if not decision.allowed:
            pending.verdicts.failed(Check.ALLOW, decision.explanation)
            raise policy_denied(asked, forbidden=bool(decision.policy_ids))
        pending.verdicts.passed(Check.ALLOW, decision.explanation)
        pending.verdicts.passed(Check.APPROVAL, "No approval is asked for.")
        return decision
