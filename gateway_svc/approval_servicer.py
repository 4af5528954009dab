"""The gateway's RPCs on approvals: one call, translated."""

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypeAlias

import grpc

from gateway_svc.approval import Approval
from gateway_svc.approvals import Approvals
from interlock.gateway.v1 import approval_service_pb2 as messages
from interlock.gateway.v1 import approval_service_pb2_grpc
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size
from svc_kit.wakeup import Subscription

NAME = "interlock.gateway.v1.ApprovalService"

_READERS = frozenset({Role.VIEWER, Role.AUDITOR})
ROLES: Mapping[str, frozenset[Role]] = {
    "GetApproval": frozenset({Role.DEVELOPER, Role.AUDITOR}),
    "ListApprovals": _READERS,
    "WatchApprovals": _READERS,
    "DecideApproval": frozenset({Role.DEVELOPER}),
}
_DECISIONS = {messages.APPROVAL_DECISION_APPROVE: True, messages.APPROVAL_DECISION_DENY: False}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ApprovalServicer(approval_service_pb2_grpc.ApprovalServiceServicer):
    """Approvals of the tenant that the caller acts for."""

    def __init__(
        self, approvals: Approvals, subscribe: Callable[[], AbstractContextManager[Subscription]]
    ) -> None:
        self._approvals = approvals
        self._subscribe = subscribe

    async def GetApproval(
        self, request: messages.GetApprovalRequest, context: Context
    ) -> messages.GetApprovalResponse:
        found = await self._approvals.get(acting_tenant(), request.approval_id)
        return messages.GetApprovalResponse(approval=from_approval(found))

    async def ListApprovals(
        self, request: messages.ListApprovalsRequest, context: Context
    ) -> messages.ListApprovalsResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListApprovals", tenant=tenant, filter=request.filter)
        before = decode_page_token(request.page_token, question, (datetime, uuid.UUID))
        found = await self._approvals.page(
            tenant,
            filter_text=request.filter,
            before=(before[0], before[1]) if before is not None else None,
            limit=size + 1,
        )
        page = found[:size]
        last = page[-1] if len(found) > size else None
        return messages.ListApprovalsResponse(
            approvals=map(from_approval, page),
            next_page_token=encode_page_token((last.create_time, last.approval_id), question) if last else "",
        )

    async def WatchApprovals(
        self, request: messages.WatchApprovalsRequest, context: Context
    ) -> AsyncIterator[messages.WatchApprovalsResponse]:
        with self._subscribe() as woken:
            async for part in self._approvals.watch(acting_tenant(), request.cursor, woken):
                yield messages.WatchApprovalsResponse(
                    approvals=map(from_approval, part.approvals), cursor=part.cursor
                )

    async def DecideApproval(
        self, request: messages.DecideApprovalRequest, context: Context
    ) -> messages.DecideApprovalResponse:
        decided = await self._approvals.decide(
            acting_tenant(),
            principal(),
            approval_id=request.approval_id,
            approve=_DECISIONS.get(request.decision),
            reason=request.reason,
        )
        return messages.DecideApprovalResponse(approval=from_approval(decided))


def from_approval(approval: Approval) -> messages.Approval:
    """An approval, with its arguments where they were read."""
    message = messages.Approval(
        approval_id=str(approval.approval_id),
        status=messages.ApprovalStatus.Value(f"APPROVAL_STATUS_{approval.status}"),
        call_id=str(approval.call_id),
        task_id=str(approval.task_id),
        step_key=approval.step_key,
        agent=approval.agent,
        agent_version=approval.agent_version,
        agent_digest=approval.agent_digest,
        tool=approval.tool,
        tool_version=approval.tool_version,
        tool_digest=approval.tool_digest,
        argument_digest=approval.argument_digest,
        arguments_json=approval.arguments_json,
        submitter=approval.submitters[-1] if approval.submitters else "",
        policy_ids=approval.policy_ids,
        decider_role=approval.decider_role,
        decider=approval.decider,
        decision_reason=approval.decision_reason,
        used=approval.used_by is not None,
    )
    message.create_time.FromDatetime(approval.create_time)
    message.expire_time.FromDatetime(approval.expire_time)
    if approval.decide_time is not None:
        message.decide_time.FromDatetime(approval.decide_time)
    return message
