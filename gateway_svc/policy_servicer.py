"""The gateway's RPCs on policies: one call, translated."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import grpc

from gateway_svc.convert import from_decision, from_policy, to_policy_content
from gateway_svc.decision_record import DecisionRecords
from gateway_svc.policies import Policies
from gateway_svc.policy import Policy, PolicyContent
from interlock.gateway.v1 import policy_service_pb2 as messages
from interlock.gateway.v1 import policy_service_pb2_grpc
from svc_kit.errors import Violation, invalid
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.gateway.v1.PolicyService"

_WRITERS = frozenset({Role.ADMIN})
_READERS = frozenset({Role.DEVELOPER, Role.AUDITOR})
ROLES: Mapping[str, frozenset[Role]] = {
    "CreatePolicy": _WRITERS,
    "GetPolicy": _READERS,
    "ListPolicies": _READERS,
    "UpdatePolicy": _WRITERS,
    "ListPolicyVersions": _READERS,
    "ExplainDecision": _READERS,
    "DeletePolicy": _WRITERS,
}

_CHANGEABLE = ("cedar", "description", "mode", "expire_time")

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """Policies of the tenant that the caller acts for."""

    def __init__(self, policies: Policies, records: DecisionRecords) -> None:
        self._policies = policies
        self._records = records

    async def CreatePolicy(
        self, request: messages.CreatePolicyRequest, context: Context
    ) -> messages.CreatePolicyResponse:
        policy = await self._policies.create(
            acting_tenant(),
            principal().subject,
            policy_id=request.policy.policy_id,
            content=to_policy_content(request.policy),
            validate_only=request.validate_only,
        )
        return messages.CreatePolicyResponse(policy=await self._shown(policy))

    async def UpdatePolicy(
        self, request: messages.UpdatePolicyRequest, context: Context
    ) -> messages.UpdatePolicyResponse:
        policy = await self._policies.update(
            acting_tenant(),
            principal().subject,
            policy_id=request.policy.policy_id,
            change=_change(request),
            etag=request.policy.etag,
            validate_only=request.validate_only,
        )
        return messages.UpdatePolicyResponse(policy=await self._shown(policy))

    async def GetPolicy(
        self, request: messages.GetPolicyRequest, context: Context
    ) -> messages.GetPolicyResponse:
        policy = await self._policies.get(acting_tenant(), request.policy_id, _version(request.version))
        shown = from_policy(policy) if request.version else await self._shown(policy)
        return messages.GetPolicyResponse(policy=shown)

    async def ListPolicies(
        self, request: messages.ListPoliciesRequest, context: Context
    ) -> messages.ListPoliciesResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        tool, version = request.tool, request.tool_version
        if version and not tool:
            raise invalid([Violation("tool", "is required when tool_version is given")])
        question = Question(method="ListPolicies", tenant=tenant, filter=f"{tool} {version}")
        after = decode_page_token(request.page_token, question, (str,))
        found = await self._policies.page(tenant, after=after[0] if after else "", limit=size + 1, tool=tool)
        page = found[:size]
        more = len(found) > size
        misfits = await self._policies.misfits(tenant, page, tool=tool, tool_version=version)
        return messages.ListPoliciesResponse(
            policies=map(from_policy, page, misfits),
            next_page_token=encode_page_token((page[-1].policy_id,), question) if more else "",
        )

    async def ListPolicyVersions(
        self, request: messages.ListPolicyVersionsRequest, context: Context
    ) -> messages.ListPolicyVersionsResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListPolicyVersions", tenant=tenant, filter=request.policy_id)
        below = decode_page_token(request.page_token, question, (int,))
        found = await self._policies.versions(
            tenant, request.policy_id, below=below[0] if below else None, limit=size + 1
        )
        page = found[:size]
        more = len(found) > size
        return messages.ListPolicyVersionsResponse(
            versions=map(from_policy, page),
            next_page_token=encode_page_token((page[-1].version,), question) if more else "",
        )

    async def ExplainDecision(
        self, request: messages.ExplainDecisionRequest, context: Context
    ) -> messages.ExplainDecisionResponse:
        return from_decision(await self._records.get(acting_tenant(), request.call_id))

    async def DeletePolicy(
        self, request: messages.DeletePolicyRequest, context: Context
    ) -> messages.DeletePolicyResponse:
        await self._policies.delete(
            acting_tenant(), principal().subject, policy_id=request.policy_id, etag=request.etag
        )
        return messages.DeletePolicyResponse()

    async def _shown(self, policy: Policy) -> messages.Policy:
        (misfits,) = await self._policies.misfits(policy.tenant, [policy])
        return from_policy(policy, misfits)


def _version(given: int) -> int:
    if given < 0:
        raise invalid([Violation("version", "must be 1 or more, or 0 for the current one")])
    return given


def _change(request: messages.UpdatePolicyRequest) -> Callable[[PolicyContent], PolicyContent]:
    paths = list(request.update_mask.paths)
    if not paths or not set(paths) <= set(_CHANGEABLE):
        raise invalid([Violation("update_mask", f"must name some of {', '.join(_CHANGEABLE)}")])
    wished = to_policy_content(request.policy)
    return lambda content: replace(content, **{path: getattr(wished, path) for path in paths})
