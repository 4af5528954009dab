"""The gateway's RPCs on policies: one call, translated."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc

from gateway_svc.convert import from_policy
from gateway_svc.policies import Policies
from interlock.gateway.v1 import policy_service_pb2 as messages
from interlock.gateway.v1 import policy_service_pb2_grpc
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.gateway.v1.PolicyService"

_WRITERS = frozenset({Role.ADMIN})
_READERS = frozenset({Role.DEVELOPER, Role.AUDITOR})
ROLES: Mapping[str, frozenset[Role]] = {
    "CreatePolicy": _WRITERS,
    "GetPolicy": _READERS,
    "ListPolicies": _READERS,
    "DeletePolicy": _WRITERS,
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class PolicyServicer(policy_service_pb2_grpc.PolicyServiceServicer):
    """Policies of the tenant that the caller acts for."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def CreatePolicy(
        self, request: messages.CreatePolicyRequest, context: Context
    ) -> messages.CreatePolicyResponse:
        policy = await self._policies.create(
            acting_tenant(),
            principal().subject,
            policy_id=request.policy.policy_id,
            cedar=request.policy.cedar,
            description=request.policy.description,
            validate_only=request.validate_only,
        )
        return messages.CreatePolicyResponse(policy=from_policy(policy))

    async def GetPolicy(
        self, request: messages.GetPolicyRequest, context: Context
    ) -> messages.GetPolicyResponse:
        policy = await self._policies.get(acting_tenant(), request.policy_id)
        return messages.GetPolicyResponse(policy=from_policy(policy))

    async def ListPolicies(
        self, request: messages.ListPoliciesRequest, context: Context
    ) -> messages.ListPoliciesResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListPolicies", tenant=tenant)
        after = decode_page_token(request.page_token, question, (str,))
        found = await self._policies.page(tenant, after=after[0] if after else "", limit=size + 1)
        page = found[:size]
        more = len(found) > size
        return messages.ListPoliciesResponse(
            policies=map(from_policy, page),
            next_page_token=encode_page_token((page[-1].policy_id,), question) if more else "",
        )

    async def DeletePolicy(
        self, request: messages.DeletePolicyRequest, context: Context
    ) -> messages.DeletePolicyResponse:
        await self._policies.delete(
            acting_tenant(), principal().subject, policy_id=request.policy_id, etag=request.etag
        )
        return messages.DeletePolicyResponse()
