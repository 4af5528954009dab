"""Step 6: a policy of the tenant allows this agent, this tool, these arguments."""

from dataclasses import replace
from typing import Protocol

from gateway_svc.cedar.decision import Decision, Question, strictest
from gateway_svc.errors import ancestor_denied, policy_denied
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
        """The decision that allows it; raises POLICY_DENIED, ANCESTOR_DENIED, or POLICY_STALE.

        A child task may do only what every agent above it may do too: each is asked about as if it made this
        very call itself, for the person or service that submitted the task at the top. An approval that any
        of them needs is needed.
        """
        asked = pending.asked
        decision = self._decide(pending, arguments, asked.agent, asked.agent_version)
        pending.verdicts.policy_ids = decision.policy_ids
        pending.verdicts.shadow_policy_ids = decision.shadow_policy_ids
        roles = [decision.approval]
        if not decision.allowed:
            pending.verdicts.failed(Check.ALLOW, decision.explanation)
            raise policy_denied(asked, forbidden=bool(decision.policy_ids))
        for ancestor in asked.ancestors:
            above = self._decide(pending, arguments, ancestor.agent, ancestor.agent_version)
            pending.verdicts.shadow_policy_ids += above.shadow_policy_ids
            if not above.allowed:
                pending.verdicts.policy_ids = above.policy_ids
                pending.verdicts.failed(
                    Check.ALLOW,
                    f"Agent {asked.agent} works for agent {ancestor.agent}, which may not do it itself: "
                    f"{above.explanation}",
                )
                raise ancestor_denied(asked, ancestor.agent)
            roles.append(above.approval)
        pending.verdicts.passed(Check.ALLOW, decision.explanation)
        return replace(decision, approval=strictest(roles))

    def _decide(self, pending: Pending, arguments: Arguments, agent: str, agent_version: str) -> Decision:
        asked = pending.asked
        return self._policies.decide(
            asked.tenant,
            Question(
                agent=agent,
                agent_version=agent_version,
                tool=asked.tool,
                arguments=arguments.value,
                attempt=asked.attempt,
                submitter=asked.submitter,
            ),
        )
