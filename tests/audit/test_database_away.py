"""The database dies under the service, and comes back."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.verify import verify_trail
from interlock_suite.postgres import EmbeddedPostgres, PostgresPlace
from svc_kit.identity import LocalIssuer, Role
from tests.audit.conftest import settings_for
from tests.audit.served import append, event, pinned_key, read_trail, refusal, serving
from tests.suite_fixtures import PostgresServer

pytestmark = pytest.mark.chaos


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server of this test alone: killing the shared one makes it recover everybody's databases."""
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    place = PostgresPlace(
        data=folder / "data", socket=folder / "s", password_file=folder / "password", log=folder / "log"
    )
    server = PostgresServer(server=EmbeddedPostgres.prepare(place, max_connections=40))
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def append_until_taken(stub: Any, made: entry_pb2.Event) -> messages.AppendResponse:
    async with asyncio.timeout(15):
        while True:
            try:
                return await append(stub, made)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


async def test_appending_goes_on_after_the_database_was_killed(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    issuer = LocalIssuer(tmp_path / "issuer.pem", "test")
    database = await asyncio.to_thread(own_server.migrated_database, "audit")
    async with serving(settings_for(database, tmp_path), issuer) as audit, audit.producer() as stub:
        first = await append(stub, event())
        own_server.kill()
        refused = await refusal(append(stub, event()))
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
        assert refused.retry_after is not None
        # On this very thread: the server ends with the thread that started it.
        own_server.start()
        assert (await append_until_taken(stub, event())).index == first.index + 1
        async with audit.reader(Role.VIEWER) as reader:
            trail = await read_trail(reader, include_payloads=False)
        report = verify_trail(trail, key=await pinned_key(audit))
    assert report.ok and report.entries_included == 2
