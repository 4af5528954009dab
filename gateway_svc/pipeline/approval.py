"""Step 7: a person has said yes to exactly this call, where a policy or the tool asks for it."""

import uuid
from collections.abc import Callable
from typing import Protocol

from gateway_svc.approval import Approval, Standing
from gateway_svc.errors import approval_denied, approval_required
from gateway_svc.pipeline.pending import Arguments, Pending
from gateway_svc.tool_call import Asked
from gateway_svc.verdicts import Check


class Approvals(Protocol):
    """What this step asks of the approvals."""

    async def last(self, asked: Asked) -> tuple[Approval, Standing] | None:
        """The newest approval of a call and what it means now."""

    async def ask(
        self, asked: Asked, arguments_json: str, *, role: str, policy_ids: tuple[str, ...]
    ) -> Approval:
        """A pending approval for this call."""


class ApprovalCheck:
    """Looks for the approval of a call, and asks for one where there is none."""

    def __init__(self, approvals: Approvals, *, asked: Callable[[str, uuid.UUID], None]) -> None:
        self._approvals = approvals
        self._asked = asked

    async def check(
        self, pending: Pending, arguments: Arguments, *, role: str, policy_ids: tuple[str, ...]
    ) -> uuid.UUID | None:
        """The approval that the call may start with; raises APPROVAL_REQUIRED or APPROVAL_DENIED."""
        asked = pending.asked
        if not role:
            pending.verdicts.passed(Check.APPROVAL, "No approval is asked for.")
            return None
        found = await self._approvals.last(asked)
        if found is not None and found[0].fits(asked):
            approval, standing = found
            pending.verdicts.approval_id = approval.approval_id
            # Since it was asked for a policy may have come to demand somebody with more to say.
            enough = approval.is_of(role)
            if standing is Standing.ALLOWS and enough:
                said = f"Approved by {approval.decider} as {approval.approval_id}."
                pending.verdicts.passed(Check.APPROVAL, said)
                return approval.approval_id
            if standing is Standing.REFUSES:
                why = _why(approval)
                pending.verdicts.failed(Check.APPROVAL, f"Approval {approval.approval_id}: {why}.")
                raise approval_denied(approval.approval_id, why)
            if standing is Standing.WAITS and enough:
                raise self._required(pending, approval)
        text = arguments.canonical.decode()
        raise self._required(
            pending, await self._approvals.ask(asked, text, role=role, policy_ids=policy_ids)
        )

    def _required(self, pending: Pending, approval: Approval) -> Exception:
        pending.verdicts.approval_id = approval.approval_id
        pending.verdicts.failed(
            Check.APPROVAL,
            f"Waits for somebody with {approval.decider_role}: interlock approve {approval.approval_id}.",
        )
        self._asked(pending.asked.tenant, pending.asked.task_id)
        return approval_required(approval.approval_id, approval.decider_role)


def _why(approval: Approval) -> str:
    if not approval.decider:
        return "nobody decided in time"
    said = f": {approval.decision_reason}" if approval.decision_reason else ""
    return f"{approval.decider} said no{said}"
