"""An orchestrator on a real PostgreSQL and a real Valkey, with the rights of the service's role."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from interlock_suite.databases import ServiceDatabase
from orchestrator_svc.config import OrchestratorSettings
from svc_kit.identity import SYSTEM_TENANT, LocalIssuer, Role
from tests.orchestrator.peers import AGENT, Peers
from tests.orchestrator.world import LEASE, World
from tests.suite_fixtures import PostgresServer, ValkeyServer


@pytest.fixture
async def database(postgres_server: PostgresServer) -> ServiceDatabase:
    return await asyncio.to_thread(postgres_server.emptied_database, "orchestrator")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: the path of a unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="orc") as path:
        yield Path(path)


@pytest.fixture
async def still_world(
    folder: Path, database: ServiceDatabase, valkey_server: ValkeyServer
) -> AsyncIterator[World]:
    """Everything but the orchestrator itself."""
    issuer = LocalIssuer(folder / "issuer.pem", "orchestrator-tests")
    token_file = folder / "token"
    token_file.write_text(issuer.mint("orchestrator", SYSTEM_TENANT, [Role.SERVICE], 3600))
    issuer.write_issuers_file(folder / "issuers.json")
    peers = Peers(folder)
    peers.registry.publish(AGENT)
    settings = OrchestratorSettings(
        public_address="127.0.0.1:0",
        internal_address=f"unix:{folder}/in.sock",
        database_url=database.service_url,
        redis_url=valkey_server.url,
        issuers=folder / "issuers.json",
        token_file=token_file,
        keys_dir=folder / "keys",
        registry_address=peers.address,
        gateway_address=peers.address,
        audit_address=peers.address,
        lease_seconds=LEASE,
        bookmark_seconds=0.5,
        drain_seconds=2,
    )
    async with AsyncExitStack() as stack, peers.running():
        world = World(
            folder=folder, database=database, issuer=issuer, peers=peers, settings=settings, stack=stack
        )
        yield world


@pytest.fixture
async def world(still_world: World) -> AsyncIterator[World]:
    """An orchestrator that serves and has heard of the registry."""
    async with still_world.serving():
        yield still_world
