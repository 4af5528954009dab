"""The RPCs on erasures: check, one call, translate."""

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias

import grpc

from audit_svc.checks import check_uuid
from audit_svc.erasure import Erasure, Selector
from audit_svc.erasures import Erasures
from interlock.audit.v1 import erasure_service_pb2 as messages
from interlock.audit.v1 import erasure_service_pb2_grpc
from svc_kit.errors import Violation, invalid
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.audit.v1.ErasureService"

_ADMIN = frozenset({Role.ADMIN})
ROLES: Mapping[str, frozenset[Role]] = {
    "ErasePayload": _ADMIN,
    "GetErasure": _ADMIN,
    "ListErasures": _ADMIN,
}
MAX_REASON = 2000

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class ErasureServicer(erasure_service_pb2_grpc.ErasureServiceServicer):
    """Erasures of the tenant that the caller acts for."""

    def __init__(self, erasures: Erasures) -> None:
        self._erasures = erasures

    async def ErasePayload(
        self, request: messages.ErasePayloadRequest, context: Context
    ) -> messages.ErasePayloadResponse:
        if violations := _check(request):
            raise invalid(violations)
        selector = Selector(
            task_id=_uuid(request.selector.task_id),
            event_id=_uuid(request.selector.event_id),
            actor=request.selector.actor,
            part=request.selector.part,
        )
        begun = await self._erasures.begin(
            acting_tenant(),
            selector,
            reason=request.reason,
            requester=principal().subject,
            request_id=_uuid(request.request_id),
        )
        return messages.ErasePayloadResponse(erasure=_from_erasure(begun))

    async def GetErasure(
        self, request: messages.GetErasureRequest, context: Context
    ) -> messages.GetErasureResponse:
        if violations := check_uuid(request.erasure_id, "erasure_id"):
            raise invalid(violations)
        found = await self._erasures.get(acting_tenant(), uuid.UUID(request.erasure_id))
        return messages.GetErasureResponse(erasure=_from_erasure(found))

    async def ListErasures(
        self, request: messages.ListErasuresRequest, context: Context
    ) -> messages.ListErasuresResponse:
        tenant, size = acting_tenant(), page_size(request.page_size)
        question = Question(method="ListErasures", tenant=tenant)
        token = decode_page_token(request.page_token, question, (str, str))
        after = (datetime.fromisoformat(token[0]), uuid.UUID(token[1])) if token else None
        found = await self._erasures.page(tenant, after=after, limit=size + 1)
        last = found[size - 1] if len(found) > size else None
        place = (last.create_time.isoformat(), str(last.erasure_id)) if last is not None else None
        return messages.ListErasuresResponse(
            erasures=map(_from_erasure, found[:size]),
            next_page_token=encode_page_token(place, question) if place is not None else "",
        )


def _check(request: messages.ErasePayloadRequest) -> list[Violation]:
    selector = request.selector
    found = []
    if sum(map(bool, (selector.task_id, selector.event_id, selector.actor))) != 1:
        found.append(Violation("selector", "must name one of task_id, event_id and actor"))
    for field, value in (
        ("selector.task_id", selector.task_id),
        ("selector.event_id", selector.event_id),
        ("request_id", request.request_id),
    ):
        found += check_uuid(value, field) if value else []
    if selector.part and not selector.event_id:
        found.append(Violation("selector.part", "names a content of an entry: give its event_id too"))
    if not request.reason.strip():
        found.append(Violation("reason", "must say why: the log keeps it"))
    elif len(request.reason) > MAX_REASON:
        found.append(Violation("reason", f"has more than {MAX_REASON} characters"))
    return found


def _uuid(text: str) -> uuid.UUID | None:
    return uuid.UUID(text) if text else None


def _from_erasure(erasure: Erasure) -> messages.Erasure:
    message = messages.Erasure(
        erasure_id=str(erasure.erasure_id),
        selector=messages.ErasureSelector(
            task_id=str(erasure.selector.task_id or ""),
            event_id=str(erasure.selector.event_id or ""),
            actor=erasure.selector.actor,
            part=erasure.selector.part,
        ),
        reason=erasure.reason,
        state=messages.ErasureState.Value(f"ERASURE_STATE_{erasure.state}"),
        waiting_for=erasure.waiting_for,
        requester=erasure.requester,
        reached=[
            messages.ErasedTable(service=service, table=table, rows=rows)
            for name, rows in sorted(erasure.reached.items())
            for service, _, table in [name.partition(".")]
        ],
        explained_by=erasure.explained_by,
    )
    message.create_time.FromDatetime(erasure.create_time)
    if erasure.erase_time is not None:
        message.erase_time.FromDatetime(erasure.erase_time)
    if erasure.complete_time is not None:
        message.complete_time.FromDatetime(erasure.complete_time)
    return message
