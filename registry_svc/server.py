"""Builds the registry and serves it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from interlock.client.audit_sink import AuditSink
from interlock.registry.v1 import registry_service_pb2_grpc, tool_service_pb2_grpc
from registry_svc import servicer, tool_servicer
from registry_svc.audit import AuditTrail
from registry_svc.catalog import CHANGED, Catalog
from registry_svc.config import RegistrySettings
from registry_svc.feed import Feed
from registry_svc.finder import Finder
from registry_svc.publishing import Publisher
from registry_svc.store import Store
from svc_kit.audit_gate import AuditGate
from svc_kit.background import background
from svc_kit.clients import TokenFile, channel
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.logging import configure_logging
from svc_kit.outbox import Relay
from svc_kit.server import App, Service, run, token_verifier
from svc_kit.wakeup import Wakeups


def build(settings: RegistrySettings) -> App:
    """Wire everything; nothing runs before the lifespan is entered."""
    if settings.token_file is None or not settings.audit_address:
        raise ValueError("the settings `token_file` and `audit_address` are needed to reach the audit log")
    audit = channel(
        settings.audit_address,
        TokenFile(settings.token_file),
        allow_plaintext_beyond_loopback=settings.allow_plaintext_beyond_loopback,
    )
    database = Database(settings.database_url, application_name="interlock registry")
    wakeups = Wakeups(database)
    store = Store(database)
    relay = Relay(
        database,
        build=AuditTrail(store).build,
        deliver=AuditSink(audit).deliver,
        name="registry outbox",
        woken=wakeups.subscribe(CHANGED),
    )
    gate = AuditGate(relay.backlog, limit=settings.audit_backlog_limit)
    catalog = Catalog(store, SystemClock(), wakeups, gate)
    publisher = Publisher(catalog)
    agents = servicer.RegistryServicer(
        catalog=catalog, publisher=publisher, finder=Finder(store), feed=Feed(store, wakeups)
    )
    tools = tool_servicer.ToolServicer(catalog=catalog, publisher=publisher)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(audit.close)
            stack.push_async_callback(database.close)
            await gate.open()
            await stack.enter_async_context(wakeups.running())
            await stack.enter_async_context(background(relay.run, gate.run, name="registry"))
            yield

    def add_agents(server: grpc.aio.Server) -> None:
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(agents, server)

    def add_tools(server: grpc.aio.Server) -> None:
        tool_service_pb2_grpc.add_ToolServiceServicer_to_server(tools, server)

    return App(
        services=(
            Service(name=servicer.NAME, add=add_agents, roles=servicer.ROLES),
            Service(name=tool_servicer.NAME, add=add_tools, roles=tool_servicer.ROLES),
        ),
        lifespan=lifespan,
    )


async def serve() -> None:
    """Serve as the environment says, until SIGTERM."""
    settings = RegistrySettings()
    configure_logging(service="registry", level=settings.log_level, log_format=settings.log_format)
    registry = build(settings)
    await run(registry.services, settings, verifier=token_verifier(settings), lifespan=registry.lifespan)
