"""The gateway's RPCs on tool calls: one call, translated."""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

import grpc

from gateway_svc.call_check import CallChecks
from gateway_svc.calls import Calls
from gateway_svc.cancels import Cancels
from gateway_svc.cedar.decision import Submitter
from gateway_svc.convert import (
    from_allowed,
    from_answer,
    from_call,
    from_checked,
    from_layer,
    from_model_answer,
)
from gateway_svc.pipeline.execute import ExecuteCall
from gateway_svc.pipeline.run import ToolRunner
from interlock.gateway.v1 import gateway_service_pb2 as messages
from interlock.gateway.v1 import gateway_service_pb2_grpc
from svc_kit.call_context import current_call
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size
from svc_kit.signing import SigningKey

NAME = "interlock.gateway.v1.GatewayService"

_READERS = frozenset({Role.VIEWER, Role.AUDITOR})
ROLES: Mapping[str, frozenset[Role]] = {
    "ExecuteTool": frozenset({Role.WORKER}),
    "CancelToolCall": frozenset({Role.DEVELOPER}),
    "CallModel": frozenset({Role.WORKER}),
    "CheckToolCall": frozenset({Role.DEVELOPER, Role.AUDITOR}),
    "ListAllowedTools": frozenset({Role.DEVELOPER, Role.AUDITOR}),
    "GetToolCall": _READERS,
    "ListToolCalls": _READERS,
    "GetSandboxStatus": frozenset({Role.VIEWER}),
    "GetPublicKeys": frozenset(Role),
}

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class GatewayServicer(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Workers execute; readers see the calls of the tenant they act for."""

    def __init__(
        self,
        *,
        execute: ExecuteCall,
        call_model: ExecuteCall,
        calls: Calls,
        cancels: Cancels,
        checks: CallChecks,
        runner: ToolRunner,
        receipt_key: SigningKey,
    ) -> None:
        self._execute = execute
        self._call_model = call_model
        self._calls = calls
        self._cancels = cancels
        self._checks = checks
        self._runner = runner
        self._receipt_key = receipt_key

    async def ExecuteTool(
        self, request: messages.ExecuteToolRequest, context: Context
    ) -> messages.ExecuteToolResponse:
        answer = await self._execute(request.permit, request.arguments_json, principal(), _seconds_left())
        return from_answer(answer)

    async def CancelToolCall(
        self, request: messages.CancelToolCallRequest, context: Context
    ) -> messages.CancelToolCallResponse:
        call = await self._cancels.cancel(acting_tenant(), request.call_id, by=principal().subject)
        return messages.CancelToolCallResponse(tool_call=from_call(call))

    async def CallModel(
        self, request: messages.CallModelRequest, context: Context
    ) -> messages.CallModelResponse:
        answer = await self._call_model(request.permit, request.request_json, principal(), _seconds_left())
        return from_model_answer(answer)

    async def CheckToolCall(
        self, request: messages.CheckToolCallRequest, context: Context
    ) -> messages.CheckToolCallResponse:
        caller = principal()
        roles = request.submitter_roles if request.submitter else sorted(caller.roles)
        checked = await self._checks.check(
            Submitter(
                tenant=acting_tenant(), subject=request.submitter or caller.subject, roles=tuple(roles)
            ),
            agent=request.agent,
            agent_version=request.agent_version,
            tool=request.tool,
            arguments_json=request.arguments_json,
        )
        return from_checked(checked)

    async def ListAllowedTools(
        self, request: messages.ListAllowedToolsRequest, context: Context
    ) -> messages.ListAllowedToolsResponse:
        version, tools = await self._checks.allowed_tools(
            acting_tenant(), agent=request.agent, agent_version=request.agent_version
        )
        return messages.ListAllowedToolsResponse(agent_version=version, tools=map(from_allowed, tools))

    async def GetToolCall(
        self, request: messages.GetToolCallRequest, context: Context
    ) -> messages.GetToolCallResponse:
        call = await self._calls.get(acting_tenant(), request.call_id)
        return messages.GetToolCallResponse(tool_call=from_call(call))

    async def ListToolCalls(
        self, request: messages.ListToolCallsRequest, context: Context
    ) -> messages.ListToolCallsResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListToolCalls", tenant=tenant, filter=request.filter)
        before = decode_page_token(request.page_token, question, (datetime, uuid.UUID))
        found = await self._calls.page(
            tenant,
            filter_text=request.filter,
            before=(before[0], before[1]) if before is not None else None,
            limit=size + 1,
        )
        page = found[:size]
        last = page[-1] if len(found) > size else None
        return messages.ListToolCallsResponse(
            tool_calls=map(from_call, page),
            next_page_token=encode_page_token((last.create_time, last.asked.call_id), question)
            if last is not None
            else "",
        )

    async def GetSandboxStatus(
        self, request: messages.GetSandboxStatusRequest, context: Context
    ) -> messages.GetSandboxStatusResponse:
        status = self._runner.status
        answer = messages.GetSandboxStatusResponse(
            level=self._runner.level,
            minimum=self._runner.minimum.name,
            layers=map(from_layer, status.layers if status else ()),
            profiles=self._runner.profiles,
        )
        answer.probe_time.FromDatetime(self._runner.probe_time)
        return answer

    async def GetPublicKeys(
        self, request: messages.GetPublicKeysRequest, context: Context
    ) -> messages.GetPublicKeysResponse:
        return messages.GetPublicKeysResponse(keys=[self._receipt_key.public()])


def _seconds_left() -> float | None:
    """Until the current call's deadline; None when it has none."""
    call = current_call()
    if call is None or call.deadline is None:
        return None
    return call.deadline - asyncio.get_running_loop().time()
