import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from svc_kit.clients import channel
from svc_kit.identity import LocalIssuer, Role, TokenVerifier
from svc_kit.server import Addresses, running_server
from svc_kit.settings import ServiceSettings
from tests.svc_kit.kit_service import KitService, KitStub


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> LocalIssuer:
    return LocalIssuer(tmp_path_factory.mktemp("issuer") / "issuer.pem", "kit")


@pytest.fixture(scope="session")
def verifier(issuer: LocalIssuer) -> TokenVerifier:
    return TokenVerifier([issuer.trusted()])


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """Short: the path of a unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="kit") as folder:
        yield Path(folder)


@pytest.fixture
def kit() -> KitService:
    return KitService()


@pytest.fixture
def settings(socket_folder: Path) -> ServiceSettings:
    return ServiceSettings(
        public_address="127.0.0.1:0",
        internal_address=f"unix:{socket_folder}/kit.sock",
        default_deadline_seconds=20,
        drain_seconds=5,
    )


@pytest.fixture
async def addresses(
    kit: KitService, settings: ServiceSettings, verifier: TokenVerifier
) -> AsyncIterator[Addresses]:
    async with running_server([kit.service()], settings, verifier=verifier) as bound:
        yield bound


class Connect(Protocol):
    def __call__(self, address: str, *roles: Role, tenant: str = "default") -> KitStub: ...


@pytest.fixture
async def connect(issuer: LocalIssuer) -> AsyncIterator[Connect]:
    """Opens channels that carry a token of the given roles, and none without roles."""
    async with AsyncExitStack() as stack:
        opened: list[grpc.aio.Channel] = []

        def open_channel(address: str, *roles: Role, tenant: str = "default") -> KitStub:
            token = issuer.mint("ada", tenant, roles, 60) if roles else ""
            made = channel(address, (lambda: token) if roles else None, deadline=10)
            opened.append(made)
            stack.push_async_callback(made.close)
            return KitStub(made)

        yield open_channel


@pytest.fixture
def viewer(connect: Connect, addresses: Addresses) -> KitStub:
    """A VIEWER of tenant `default` at the public door."""
    return connect(addresses.public, Role.VIEWER)


@pytest.fixture
def service(connect: Connect, addresses: Addresses) -> KitStub:
    """A SERVICE at the internal door."""
    return connect(addresses.internal, Role.SERVICE, tenant="system")
