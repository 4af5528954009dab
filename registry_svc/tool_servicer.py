"""ToolService: protobuf in, one call, protobuf out."""

from typing import Any

from interlock.registry.v1 import tool_pb2, tool_service_pb2_grpc
from interlock.registry.v1 import tool_service_pb2 as messages
from registry_svc import checks, convert, filtering
from registry_svc.catalog import Catalog
from registry_svc.publishing import Publisher
from registry_svc.records import Kind
from registry_svc.servicer import READERS, SETTABLE, WRITERS
from svc_kit.identity import acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.registry.v1.ToolService"

ROLES = {
    "CreateTool": WRITERS,
    "GetTool": READERS,
    "ListTools": READERS,
    "PublishToolVersion": WRITERS,
    "GetToolVersion": READERS,
    "ListToolVersions": READERS,
    "SetToolStatus": WRITERS,
}


class ToolServicer(tool_service_pb2_grpc.ToolServiceServicer):
    """Tools."""

    def __init__(self, *, catalog: Catalog, publisher: Publisher) -> None:
        self._catalog = catalog
        self._publisher = publisher

    async def CreateTool(
        self, request: messages.CreateToolRequest, context: Any
    ) -> messages.CreateToolResponse:
        checks.tool_name(request.name)
        made = await self._catalog.create(
            Kind.TOOL,
            acting_tenant(),
            request.name,
            actor=principal().subject,
            validate_only=request.validate_only,
        )
        return messages.CreateToolResponse(tool=convert.tool_to_proto(made))

    async def GetTool(self, request: messages.GetToolRequest, context: Any) -> messages.GetToolResponse:
        found = await self._catalog.get(Kind.TOOL, acting_tenant(), request.name)
        return messages.GetToolResponse(tool=convert.tool_to_proto(found))

    async def ListTools(self, request: messages.ListToolsRequest, context: Any) -> messages.ListToolsResponse:
        tenant = acting_tenant()
        size = page_size(request.page_size)
        question = Question(method="ListTools", tenant=tenant, filter=request.filter)
        wanted = filtering.wanted(request.filter, filtering.TOOL_FIELDS)
        (after,) = decode_page_token(request.page_token, question, (str,)) or ("",)
        found = await self._catalog.page(Kind.TOOL, tenant, after=after, limit=size + 1, wanted=wanted)
        page = found[:size]
        return messages.ListToolsResponse(
            tools=map(convert.tool_to_proto, page),
            next_page_token=encode_page_token([page[-1].name], question) if len(found) > size else "",
        )

    async def PublishToolVersion(
        self, request: messages.PublishToolVersionRequest, context: Any
    ) -> messages.PublishToolVersionResponse:
        checks.tool_name(request.tool, field="tool")
        published = await self._publisher.publish(
            Kind.TOOL,
            acting_tenant(),
            request.tool,
            request.version,
            convert.spec_from_proto(request.spec),
            actor=principal().subject,
            validate_only=request.validate_only,
        )
        return messages.PublishToolVersionResponse(tool_version=convert.tool_version_to_proto(published))

    async def GetToolVersion(
        self, request: messages.GetToolVersionRequest, context: Any
    ) -> messages.GetToolVersionResponse:
        found = await self._catalog.get_version(Kind.TOOL, acting_tenant(), request.tool, request.version)
        return messages.GetToolVersionResponse(tool_version=convert.tool_version_to_proto(found))

    async def ListToolVersions(
        self, request: messages.ListToolVersionsRequest, context: Any
    ) -> messages.ListToolVersionsResponse:
        tenant = acting_tenant()
        size = page_size(request.page_size)
        question = Question(method="ListToolVersions", tenant=tenant, filter=request.tool)
        (before,) = decode_page_token(request.page_token, question, (int,)) or (None,)
        found = await self._catalog.version_page(
            Kind.TOOL, tenant, request.tool, before=before, limit=size + 1
        )
        page = found[:size]
        return messages.ListToolVersionsResponse(
            tool_versions=map(convert.tool_version_to_proto, page),
            next_page_token=encode_page_token([page[-1].position], question) if len(found) > size else "",
        )

    async def SetToolStatus(
        self, request: messages.SetToolStatusRequest, context: Any
    ) -> messages.SetToolStatusResponse:
        checks.status(request.status, known=SETTABLE)
        changed = await self._catalog.set_active(
            Kind.TOOL,
            acting_tenant(),
            request.name,
            active=request.status == tool_pb2.STATUS_ACTIVE,
            etag=request.etag,
            actor=principal().subject,
        )
        return messages.SetToolStatusResponse(tool=convert.tool_to_proto(changed))
