"""A gateway with its real database and sandbox; its neighbours are small servers that can be made to fail."""

import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import LocalIssuer
from svc_kit.signing import SigningKey
from tests.gateway.peers import Orchestrator
from tests.gateway.shared_sandbox import SandboxHost, sandbox_host
from tests.gateway.world import World, gateway, neighbours
from tests.suite_fixtures import PostgresServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gateway_database(postgres_server: PostgresServer) -> ServiceDatabase:
    return postgres_server.migrated_database("gateway")


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[SandboxHost]:
    with sandbox_host() as host:
        yield host


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own: a unix socket's path may hold 107 bytes only.
    path = Path(tempfile.mkdtemp(prefix="il-gw-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def closed_world(
    gateway_database: ServiceDatabase, sandboxes: SandboxHost, folder: Path
) -> AsyncIterator[World]:
    """The neighbours, without a gateway."""
    key = SigningKey.load_or_create(folder / "orchestrator", "permit")
    world = World(
        tenant=f"tenant-{next(_numbers)}",
        folder=folder,
        database_url=gateway_database.service_url,
        issuer=LocalIssuer(folder / "issuer.pem", "test"),
        permit_key=key,
        orchestrator=Orchestrator(key),  # type: ignore[abstract]  # what the gateway asks for is enough
        sandboxes=sandboxes,
    )
    async with neighbours(world):
        yield world


@pytest.fixture
async def world(closed_world: World) -> AsyncIterator[World]:
    """A gateway that serves one agent with the tool `echo`."""
    closed_world.publish_tool()
    async with gateway(closed_world):
        yield closed_world
