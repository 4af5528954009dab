"""The RPCs of retention and holds: check, one call, translate."""

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias
from uuid import UUID

import grpc

from audit_svc.checks import check_uuid
from audit_svc.holds import Holds
from audit_svc.retention import PRESETS, Rules
from audit_svc.retention_checks import (
    check_policy,
    check_reason,
    check_rules,
    check_selector,
    to_rules,
    to_selector,
)
from audit_svc.retention_convert import from_hold, from_preset, from_preview, from_rules
from audit_svc.retention_policies import RetentionPolicies
from audit_svc.sequence import LogName
from audit_svc.sweep import Sweep
from interlock.audit.v1 import retention_service_pb2 as messages
from interlock.audit.v1 import retention_service_pb2_grpc
from svc_kit.errors import Violation, invalid
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.audit.v1.RetentionService"

_ADMINS = frozenset({Role.ADMIN})
_READERS = frozenset({Role.VIEWER, Role.AUDITOR})
_KEEPERS = frozenset({Role.ADMIN, Role.AUDITOR})
ROLES: Mapping[str, frozenset[Role]] = {
    "SetRetentionPolicy": _ADMINS,
    "GetRetentionPolicy": _READERS,
    "ListRetentionPresets": _READERS,
    "PreviewRetention": _KEEPERS,
    "PlaceHold": _KEEPERS,
    "ReleaseHold": _ADMINS,
    "ListHolds": _KEEPERS,
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class LogNames(Protocol):
    """Finds logs."""

    async def log_of(self, tenant: str) -> LogName | None: ...


class RetentionServicer(retention_service_pb2_grpc.RetentionServiceServicer):
    """Retention of the tenant that the caller acts for."""

    def __init__(self, *, policies: RetentionPolicies, holds: Holds, sweep: Sweep, logs: LogNames) -> None:
        self._policies = policies
        self._holds = holds
        self._sweep = sweep
        self._logs = logs

    async def SetRetentionPolicy(
        self, request: messages.SetRetentionPolicyRequest, context: Context
    ) -> messages.SetRetentionPolicyResponse:
        _require(check_policy(request))
        wanted: Rules = PRESETS[request.preset].rules if request.preset else to_rules(request.rules)
        rules = await self._policies.put(acting_tenant(), wanted, actor=principal().subject)
        return messages.SetRetentionPolicyResponse(rules=from_rules(rules))

    async def GetRetentionPolicy(
        self, request: messages.GetRetentionPolicyRequest, context: Context
    ) -> messages.GetRetentionPolicyResponse:
        return messages.GetRetentionPolicyResponse(
            rules=from_rules(await self._policies.get(acting_tenant()))
        )

    async def ListRetentionPresets(
        self, request: messages.ListRetentionPresetsRequest, context: Context
    ) -> messages.ListRetentionPresetsResponse:
        return messages.ListRetentionPresetsResponse(
            presets=[from_preset(PRESETS[name]) for name in sorted(PRESETS)]
        )

    async def PreviewRetention(
        self, request: messages.PreviewRetentionRequest, context: Context
    ) -> messages.PreviewRetentionResponse:
        _require(check_rules(request.rules))
        tenant = acting_tenant()
        rules = {**await self._policies.get(tenant), **to_rules(request.rules)}
        name = await self._logs.log_of(tenant)
        if name is None:
            return messages.PreviewRetentionResponse(classes=from_preview({}), complete=True)
        told, complete = await self._sweep.preview(name.log_id, rules)
        return messages.PreviewRetentionResponse(classes=from_preview(told), complete=complete)

    async def PlaceHold(
        self, request: messages.PlaceHoldRequest, context: Context
    ) -> messages.PlaceHoldResponse:
        _require([*check_selector(request.selector), *check_reason(request.reason)])
        hold = await self._holds.place(
            acting_tenant(),
            to_selector(request.selector),
            reason=request.reason,
            actor=principal().subject,
        )
        return messages.PlaceHoldResponse(hold=from_hold(hold))

    async def ReleaseHold(
        self, request: messages.ReleaseHoldRequest, context: Context
    ) -> messages.ReleaseHoldResponse:
        _require([*check_uuid(request.hold_id, "hold_id"), *check_reason(request.reason)])
        hold = await self._holds.release(
            acting_tenant(), UUID(request.hold_id), reason=request.reason, actor=principal().subject
        )
        return messages.ReleaseHoldResponse(hold=from_hold(hold))

    async def ListHolds(
        self, request: messages.ListHoldsRequest, context: Context
    ) -> messages.ListHoldsResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListHolds", tenant=tenant, filter=str(request.include_released))
        told = decode_page_token(request.page_token, question, (UUID,))
        found = await self._holds.page(
            tenant, before=told[0] if told else None, released=request.include_released, limit=size + 1
        )
        page = found[:size]
        more = len(found) > size
        return messages.ListHoldsResponse(
            holds=map(from_hold, page),
            next_page_token=encode_page_token([page[-1].hold_id], question) if more else "",
        )


def _require(violations: list[Violation]) -> None:
    if violations:
        raise invalid(violations)
