"""Approvals of a tenant: asked for by calls, decided by people, each change in the audit log."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway_svc.approval import Approval, ApprovalStatus, Standing, standing
from gateway_svc.approval_store import ApprovalStore
from gateway_svc.audit_events import APPROVAL, approval_event, to_message
from gateway_svc.errors import (
    approval_closed,
    approval_forbidden,
    approval_not_found,
    cursor_invalid,
)
from gateway_svc.told_store import Told
from gateway_svc.tool_call import Asked
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.filters import Condition, FilterField, parse_filter
from svc_kit.identity.principal import Principal
from svc_kit.identity.roles import Role
from svc_kit.ids import uuid7
from svc_kit.wakeup import Subscription

TOPIC = "approvals"
MAX_REASON = 500
FILTER_FIELDS: Mapping[str, FilterField] = {
    "task_id": FilterField(),
    "agent": FilterField(),
    "tool": FilterField(),
    "status": FilterField(values=frozenset(ApprovalStatus)),
}
_SLICE = 100
_BEAT_SECONDS = 1.0
_BEATS_PER_BOOKMARK = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some approvals, and the cursor up to which everything has been told."""

    approvals: Sequence[Approval]
    cursor: str


class Approvals:
    """Asks for approvals, and decides them.

    `own`: whoever submitted a task may decide about its calls, as on a machine with one person.
    """

    def __init__(
        self,
        store: ApprovalStore,
        clock: Clock,
        *,
        lifetime: timedelta,
        own: bool,
        committed: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._lifetime = lifetime
        self._own = own
        self._committed = committed

    async def last(self, asked: Asked) -> tuple[Approval, Standing] | None:
        """The newest approval of a call and what it means now; whether it `fits` the call is not asked."""
        found = await self._store.last_of_call(asked.tenant, asked.call_id)
        return (found[0], standing(*found)) if found is not None else None

    async def ask(
        self, asked: Asked, arguments_json: str, *, role: str, policy_ids: tuple[str, ...]
    ) -> Approval:
        """A pending approval for this call; the one that stands already, if somebody else was faster."""
        now = self._clock.now()
        new = Approval(
            tenant=asked.tenant,
            approval_id=uuid7(),
            call_id=asked.call_id,
            task_id=asked.task_id,
            step_key=asked.step_key,
            agent=asked.agent,
            agent_version=asked.agent_version,
            agent_digest=asked.agent_digest,
            tool=asked.tool,
            tool_version=asked.tool_version,
            tool_digest=asked.tool_digest,
            argument_digest=asked.argument_digest,
            arguments_json=arguments_json,
            submitters=tuple(each.subject for each in asked.submitters if not each.agent),
            policy_ids=policy_ids,
            decider_role=role,
            create_time=now,
            expire_time=now + self._lifetime,
        )
        told = self._told(new, "REQUESTED", actor=asked.worker)
        while not await self._store.create(new, told, lives=self._lifetime):
            standing_one = await self._store.last_of_call(asked.tenant, asked.call_id)
            if standing_one is not None and standing_one[0].status is ApprovalStatus.PENDING:
                if standing_one[0].fits(asked) and standing_one[0].is_of(role):
                    return standing_one[0]
                # What the call is now, nobody was asked about, or not those who have to be.
                await self.close(standing_one[0], ApprovalStatus.CANCELED)
        self._committed()
        return new

    async def get(self, tenant: str, approval_id: str) -> Approval:
        """One approval with its arguments; raises APPROVAL_NOT_FOUND, or INVALID_FIELDS."""
        return (await self._find(tenant, approval_id))[0]

    async def page(
        self, tenant: str, *, filter_text: str, before: tuple[datetime, uuid.UUID] | None, limit: int
    ) -> Sequence[Approval]:
        """Approvals that pass the filter, newest first, older than a position; raises FILTER_INVALID."""
        conditions = [
            Condition(
                "task_id", each.operator, str(_uuid(str(each.value), "filter", "task_id must be a UUID"))
            )
            if each.field == "task_id"
            else each
            for each in parse_filter(filter_text, FILTER_FIELDS)
        ]
        return await self._store.page(tenant, conditions=conditions, before=before, limit=limit)

    async def decide(
        self, tenant: str, by: Principal, *, approval_id: str, approve: bool | None, reason: str
    ) -> Approval:
        """The approval as it stands; raises what the contract says of DecideApproval."""
        flaws = []
        if approve is None:
            flaws.append(Violation("decision", "must be APPROVAL_DECISION_APPROVE or APPROVAL_DECISION_DENY"))
        if len(reason) > MAX_REASON or "\0" in reason:
            flaws.append(Violation("reason", f"at most {MAX_REASON} characters, and no NUL"))
        if flaws:
            raise invalid(flaws)
        status = ApprovalStatus.APPROVED if approve else ApprovalStatus.DENIED
        found, now = await self._find(tenant, approval_id)
        self._check_decider(found, by)
        if standing(found, now) is Standing.WAITS:
            decided = replace(found, status=status)
            told = self._told(decided, status, actor=by.subject, reason=reason)
            if await self._store.decide(found, status=status, decider=by.subject, reason=reason, told=told):
                self._committed()
                return await self.get(tenant, approval_id)
            found, now = await self._find(tenant, approval_id)
        if (found.status, found.decider) == (status, by.subject):
            return found
        raise approval_closed(found.approval_id, _how(found))

    async def close(self, pending: Approval, status: ApprovalStatus) -> None:
        """End one that nobody decided."""
        if await self._store.close(pending, status=status, told=self._told(pending, status, actor="gateway")):
            self._committed()

    async def watch(self, tenant: str, cursor: str, woken: Subscription) -> AsyncIterator[Slice]:
        """For ever: what is pending, or what changed after the cursor, and then every change."""
        log_id, head = await self._store.head()
        if cursor:
            at = _position(cursor, log_id, head)
        else:
            at = head
            last = uuid.UUID(int=0)
            while found := await self._store.pending(tenant, after=last, limit=_SLICE):
                yield Slice(approvals=found, cursor="")
                last = found[-1].approval_id
            yield Slice(approvals=(), cursor=f"{log_id}.{at}")
        beats = 0
        while True:
            changed = await self._store.changes(tenant, after=at, limit=_SLICE)
            beats += 1
            if changed or beats == _BEATS_PER_BOOKMARK:
                at = changed[-1].position if changed else at
                beats = 0
                yield Slice(approvals=changed, cursor=f"{log_id}.{at}")
            if len(changed) < _SLICE:
                await woken.wait(_BEAT_SECONDS)

    def _check_decider(self, found: Approval, by: Principal) -> None:
        if not by.has(Role(found.decider_role)):
            raise approval_forbidden(found.approval_id, f"this approval needs {found.decider_role}")
        if by.subject in found.submitters and not self._own:
            raise approval_forbidden(
                found.approval_id, "the call is made for you: somebody else has to approve it"
            )

    async def _find(self, tenant: str, approval_id: str) -> tuple[Approval, datetime]:
        found = await self._store.find(tenant, _uuid(approval_id, "approval_id", "must be a UUID"))
        if found is None:
            raise approval_not_found(approval_id)
        return found

    def _told(self, approval: Approval, action: str, *, actor: str, reason: str = "") -> Told:
        event = approval_event(approval, action=action, event_id=uuid7(), time=self._clock.now(), actor=actor)
        body = json.dumps({"reason": reason}, ensure_ascii=False).encode() if reason else b""
        return Told(message=to_message(APPROVAL, event), part="decision" if reason else "", body=body)


def _how(found: Approval) -> str:
    if found.decider:
        return f"was {found.status.lower()} by {found.decider} already"
    return "has expired" if found.status is ApprovalStatus.PENDING else f"is {found.status.lower()}"


def _uuid(text: str, field: str, message: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise invalid([Violation(field, message)]) from None


def _position(cursor: str, log_id: uuid.UUID, head: int) -> int:
    log, _, position = cursor.rpartition(".")
    if not position.isdecimal() or len(position) > 18:  # noqa: PLR2004 - what a position has at most
        raise invalid([Violation("cursor", "must be the cursor of a message of this method")])
    if log != str(log_id) or int(position) > head:
        raise cursor_invalid("the cursor is of another log, or of one that was put back since")
    return int(position)
