"""What an approval is. Pure."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from gateway_svc.cedar.decision import strictest
from gateway_svc.tool_call import Asked


class ApprovalStatus(StrEnum):
    """What became of an approval; the names are those of the contract."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One approval as stored."""

    tenant: str
    approval_id: uuid.UUID
    status: ApprovalStatus = ApprovalStatus.PENDING
    call_id: uuid.UUID
    task_id: uuid.UUID
    step_key: str
    agent: str
    agent_version: str
    agent_digest: str
    tool: str
    tool_version: str
    tool_digest: str
    argument_digest: str
    arguments_json: str = field(default="", repr=False)
    """Empty where only the rest was read."""
    submitters: tuple[str, ...]
    """People and services that the call is made for, the one at the top last."""
    policy_ids: tuple[str, ...]
    decider_role: str
    create_time: datetime
    expire_time: datetime
    decide_time: datetime | None = None
    decider: str = ""
    decision_reason: str = ""
    used_by: uuid.UUID | None = None
    position: int = 0

    def fits(self, asked: Asked) -> bool:
        """Whether it speaks of exactly this call: every digest is the same."""
        return (
            self.tenant == asked.tenant
            and self.call_id == asked.call_id
            and self.agent_digest == asked.agent_digest
            and self.tool_digest == asked.tool_digest
            and self.argument_digest == asked.argument_digest
        )

    def is_of(self, role: str) -> bool:
        """Whether nobody could decide it who has less than this role."""
        return strictest([role, self.decider_role]) == self.decider_role


class Standing(StrEnum):
    """What an approval means for its call at one moment."""

    WAITS = "WAITS"
    """Nobody has decided yet."""
    ALLOWS = "ALLOWS"
    """The call may start."""
    REFUSES = "REFUSES"
    """A person said no, or nobody decided in time."""
    SPENT = "SPENT"
    """It lets nothing start any more: used, or approved too long ago. A new one has to be asked for."""


def standing(approval: Approval, now: datetime) -> Standing:
    """What the last approval of a call means now; `now` is the database's clock."""
    match approval.status:
        case ApprovalStatus.DENIED | ApprovalStatus.EXPIRED:
            return Standing.REFUSES
        case ApprovalStatus.PENDING:
            return Standing.WAITS if now < approval.expire_time else Standing.REFUSES
        case ApprovalStatus.APPROVED if approval.used_by is None and now < approval.expire_time:
            return Standing.ALLOWS
        case _:
            return Standing.SPENT
