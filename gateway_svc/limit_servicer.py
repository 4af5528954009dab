"""The gateway's RPCs on limits: one call, translated."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc

from gateway_svc.call_limits import CallLimit, CallLimits
from interlock.gateway.v1 import limit_service_pb2 as messages
from interlock.gateway.v1 import limit_service_pb2_grpc
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.gateway.v1.LimitService"

_ADMIN = frozenset({Role.ADMIN})
ROLES: Mapping[str, frozenset[Role]] = {"SetCallLimit": _ADMIN, "ListCallLimits": _ADMIN}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class LimitServicer(limit_service_pb2_grpc.LimitServiceServicer):
    """Limits of the tenant that the caller acts for."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits

    async def SetCallLimit(
        self, request: messages.SetCallLimitRequest, context: Context
    ) -> messages.SetCallLimitResponse:
        stored = await self._limits.put(
            acting_tenant(),
            principal().subject,
            tool=request.limit.tool,
            max_running=request.limit.max_running,
            max_per_minute=request.limit.max_per_minute,
        )
        return messages.SetCallLimitResponse(limit=_from_limit(stored))

    async def ListCallLimits(
        self, request: messages.ListCallLimitsRequest, context: Context
    ) -> messages.ListCallLimitsResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListCallLimits", tenant=tenant)
        after = decode_page_token(request.page_token, question, (str,))
        found = await self._limits.page(tenant, after=after[0] if after else None, limit=size + 1)
        page = found[:size]
        more = len(found) > size
        return messages.ListCallLimitsResponse(
            limits=map(_from_limit, page),
            next_page_token=encode_page_token((page[-1].tool,), question) if more else "",
        )


def _from_limit(limit: CallLimit) -> messages.CallLimit:
    message = messages.CallLimit(
        tool=limit.tool,
        max_running=limit.max_running,
        max_per_minute=limit.max_per_minute,
        updater=limit.updater,
    )
    message.update_time.FromDatetime(limit.update_time)
    return message
