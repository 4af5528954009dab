"""RegistryService: protobuf in, one call, protobuf out."""

from collections.abc import AsyncIterator
from typing import Any

from interlock.registry.v1 import registry_service_pb2 as messages
from interlock.registry.v1 import registry_service_pb2_grpc, tool_pb2
from registry_svc import checks, convert, filtering
from registry_svc.catalog import Catalog
from registry_svc.feed import Feed
from registry_svc.finder import Finder
from registry_svc.matching import Wanted
from registry_svc.publishing import Publisher
from registry_svc.records import Kind
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.paging import Question, decode_page_token, encode_page_token, page_size

NAME = "interlock.registry.v1.RegistryService"

READERS = frozenset({Role.VIEWER, Role.SUBMITTER, Role.AUDITOR, Role.SERVICE, Role.WORKER})
WRITERS = frozenset({Role.SUPER_ADMIN})
ROLES = {
    "CreateAgent": WRITERS,
    "GetAgent": READERS,
    "ListAgents": READERS,
    "PublishAgentVersion": WRITERS,
    "GetAgentVersion": READERS,
    "ListAgentVersions": READERS,
    "SetAgentStatus": WRITERS,
    "FindAgentsForTask": READERS,
    "WatchRegistry": frozenset({Role.SERVICE, Role.WORKER}),
}
SETTABLE = (tool_pb2.STATUS_ACTIVE, tool_pb2.STATUS_DISABLED)


class RegistryServicer(registry_service_pb2_grpc.RegistryServiceServicer):
    """Agents."""

    def __init__(self, *, catalog: Catalog, publisher: Publisher, finder: Finder, feed: Feed) -> None:
        self._catalog = catalog
        self._publisher = publisher
        self._finder = finder
        self._feed = feed

    async def CreateAgent(
        self, request: messages.CreateAgentRequest, context: Any
    ) -> messages.CreateAgentResponse:
        checks.agent_name(request.name)
        made = await self._catalog.create(
            Kind.AGENT,
            acting_tenant(),
            request.name,
            actor=principal().subject,
            validate_only=request.validate_only,
        )
        return messages.CreateAgentResponse(agent=convert.agent_to_proto(made))

    async def GetAgent(self, request: messages.GetAgentRequest, context: Any) -> messages.GetAgentResponse:
        found = await self._catalog.get(Kind.AGENT, acting_tenant(), request.name)
        return messages.GetAgentResponse(agent=convert.agent_to_proto(found))

    async def ListAgents(
        self, request: messages.ListAgentsRequest, context: Any
    ) -> messages.ListAgentsResponse:
        tenant = acting_tenant()
        size = page_size(request.page_size)
        question = Question(method="ListAgents", tenant=tenant, filter=request.filter)
        wanted = filtering.wanted(request.filter, filtering.AGENT_FIELDS)
        (after,) = decode_page_token(request.page_token, question, (str,)) or ("",)
        found = await self._catalog.page(Kind.AGENT, tenant, after=after, limit=size + 1, wanted=wanted)
        page = found[:size]
        return messages.ListAgentsResponse(
            agents=map(convert.agent_to_proto, page),
            next_page_token=encode_page_token([page[-1].name], question) if len(found) > size else "",
        )

    async def PublishAgentVersion(
        self, request: messages.PublishAgentVersionRequest, context: Any
    ) -> messages.PublishAgentVersionResponse:
        checks.agent_name(request.agent, field="agent")
        published = await self._publisher.publish(
            Kind.AGENT,
            acting_tenant(),
            request.agent,
            request.version,
            convert.spec_from_proto(request.spec),
            actor=principal().subject,
            validate_only=request.validate_only,
        )
        return messages.PublishAgentVersionResponse(agent_version=convert.agent_version_to_proto(published))

    async def GetAgentVersion(
        self, request: messages.GetAgentVersionRequest, context: Any
    ) -> messages.GetAgentVersionResponse:
        found = await self._catalog.get_version(Kind.AGENT, acting_tenant(), request.agent, request.version)
        return messages.GetAgentVersionResponse(agent_version=convert.agent_version_to_proto(found))

    async def ListAgentVersions(
        self, request: messages.ListAgentVersionsRequest, context: Any
    ) -> messages.ListAgentVersionsResponse:
        tenant = acting_tenant()
        size = page_size(request.page_size)
        question = Question(method="ListAgentVersions", tenant=tenant, filter=request.agent)
        (before,) = decode_page_token(request.page_token, question, (int,)) or (None,)
        found = await self._catalog.version_page(
            Kind.AGENT, tenant, request.agent, before=before, limit=size + 1
        )
        page = found[:size]
        return messages.ListAgentVersionsResponse(
            agent_versions=map(convert.agent_version_to_proto, page),
            next_page_token=encode_page_token([page[-1].position], question) if len(found) > size else "",
        )

    async def SetAgentStatus(
        self, request: messages.SetAgentStatusRequest, context: Any
    ) -> messages.SetAgentStatusResponse:
        checks.status(request.status, known=SETTABLE)
        changed = await self._catalog.set_active(
            Kind.AGENT,
            acting_tenant(),
            request.name,
            active=request.status == tool_pb2.STATUS_ACTIVE,
            etag=request.etag,
            actor=principal().subject,
        )
        return messages.SetAgentStatusResponse(agent=convert.agent_to_proto(changed))

    async def FindAgentsForTask(
        self, request: messages.FindAgentsForTaskRequest, context: Any
    ) -> messages.FindAgentsForTaskResponse:
        limit = checks.find_agents(request.capabilities, request.tools, request.limit)
        wanted = Wanted(capabilities=tuple(request.capabilities), tools=tuple(request.tools))
        candidates, rejected = await self._finder.find(acting_tenant(), wanted)
        return messages.FindAgentsForTaskResponse(
            candidates=map(convert.candidate_to_proto, candidates[:limit]),
            rejected=map(convert.rejected_to_proto, rejected) if request.include_rejected else (),
        )

    async def WatchRegistry(
        self, request: messages.WatchRegistryRequest, context: Any
    ) -> AsyncIterator[messages.WatchRegistryResponse]:
        async for change in self._feed.follow(_visible_tenants()):
            yield convert.bookmark(change) if isinstance(change, int) else convert.change_to_proto(change)


def _visible_tenants() -> frozenset[str] | None:
    """The tenants whose changes the caller may see; None = all. A worker sees those whose pools it serves."""
    caller = principal()
    if caller.covers_all_tenants:
        return None
    return frozenset({caller.tenant, *(tenant for tenant, _ in caller.pools)})
