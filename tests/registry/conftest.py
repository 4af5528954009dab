"""A registry on a real PostgreSQL, served with the real interceptors."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from interlock.registry.v1 import registry_service_pb2_grpc, tool_service_pb2_grpc
from registry_svc.config import RegistrySettings
from registry_svc.server import build
from svc_kit.clients import channel
from svc_kit.identity import LocalIssuer, Role, TokenVerifier
from svc_kit.server import running_server
from tests.suite_fixtures import PostgresServer, ServiceDatabase


@dataclass(frozen=True, slots=True, kw_only=True)
class Stubs:
    """Both services, as one caller."""

    channel: grpc.aio.Channel
    agents: "registry_service_pb2_grpc.RegistryServiceAsyncStub"
    tools: "tool_service_pb2_grpc.ToolServiceAsyncStub"


Connect = Callable[..., Stubs]


@pytest.fixture
async def registry_database(postgres_server: PostgresServer) -> ServiceDatabase:
    return await asyncio.to_thread(postgres_server.emptied_database, "registry")


@pytest.fixture
def backlog_limit() -> int:
    """More than any test leaves behind."""
    return 10_000


@pytest.fixture
async def connect(
    registry_database: ServiceDatabase, tmp_path: Path, backlog_limit: int
) -> AsyncIterator[Connect]:
    """`connect(Role.X, …, tenant=…)` gives stubs of a running registry on its internal door."""
    issuer = LocalIssuer(tmp_path / "issuer.pem", "test")
    token_file = tmp_path / "token"
    token_file.write_text(issuer.mint("registry", "system", [Role.SERVICE], 3600))
    settings = RegistrySettings(
        public_address="",
        internal_address="127.0.0.1:0",
        database_url=registry_database.service_url,
        token_file=token_file,
        # Nobody listens there: the audit log may be away, its outbox keeps what it will be told.
        audit_address="127.0.0.1:1",
        audit_backlog_limit=backlog_limit,
        drain_seconds=0.2,
    )
    registry = build(settings)
    channels: list[grpc.aio.Channel] = []
    async with running_server(
        registry.services,
        settings,
        verifier=TokenVerifier([issuer.trusted()]),
        lifespan=registry.lifespan,
    ) as addresses:

        def make(*roles: Role, tenant: str = "default") -> Stubs:
            token = issuer.mint("somebody", tenant, roles, 3600)
            opened = channel(addresses.internal, lambda: token)
            channels.append(opened)
            return Stubs(
                channel=opened,
                agents=registry_service_pb2_grpc.RegistryServiceStub(opened),
                tools=tool_service_pb2_grpc.ToolServiceStub(opened),
            )

        yield make
        for opened in channels:
            await opened.close()
