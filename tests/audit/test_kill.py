"""kill -9 of the service in the middle of appends: nothing acknowledged is lost, nothing stands twice."""

import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from audit_svc.servicer import NAME
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.verify import NoteKey, verify_trail
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import LocalIssuer, Role
from svc_kit.server import Addresses
from tests.audit.served import ORIGIN, Served, append, event, read_trail

pytestmark = pytest.mark.chaos

ROUNDS = 1
WRITERS = 8
EVENTS_EACH = 30


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's own temporary folder: a unix socket's path may hold 107 bytes only.
    made = Path(tempfile.mkdtemp(prefix="il-audit-"))
    try:
        yield made
    finally:
        shutil.rmtree(made)


class AuditProcess:
    """`python -m audit_svc` as operators run it."""

    def __init__(self, name: str, folder: Path, database: ServiceDatabase, issuer: LocalIssuer) -> None:
        self.served = Served(
            addresses=Addresses(public="", internal=f"unix:{folder}/{name}.sock", metrics=""), issuer=issuer
        )
        issuers = folder / "issuers.json"
        issuer.write_issuers_file(issuers)
        settings = {
            "ORIGIN": ORIGIN,
            "PUBLIC_ADDRESS": "",
            "INTERNAL_ADDRESS": self.served.addresses.internal,
            "DATABASE_URL": database.service_url,
            "ISSUERS": str(issuers),
            "KEYS_DIR": str(folder / "keys"),
            "CHECKPOINTS_DIR": str(folder / "checkpoints"),
        }
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **{f"INTERLOCK_AUDIT_{key}": value for key, value in settings.items()},
        }
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "audit_svc", env=self._environment, stdout=log, stderr=log
            )
        try:
            async with (
                asyncio.timeout(30),
                grpc.aio.insecure_channel(self.served.addresses.internal) as opened,
            ):
                # The stub is written once for both kinds of channel, and typed for neither.
                check: Any = health_pb2_grpc.HealthStub(opened).Check
                answer = await check(health_pb2.HealthCheckRequest(service=NAME), wait_for_ready=True)
        except TimeoutError:
            raise AssertionError(self._log.read_text()) from None
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def kill(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def running(*processes: AuditProcess) -> AsyncIterator[None]:
    await asyncio.gather(*(process.start() for process in processes))
    try:
        yield
    finally:
        await asyncio.gather(*(process.kill() for process in processes))


async def write_until_gone(
    served: Served, events: list[entry_pb2.Event], acked: dict[str, int], enough: asyncio.Event
) -> None:
    """Append one after the other and note every acknowledgement, until the service is gone."""
    async with served.producer() as stub:
        for made in events:
            try:
                answer = await append(stub, made)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return
            assert acked.setdefault(made.event_id, answer.index) == answer.index
            if len(acked) > WRITERS * EVENTS_EACH // random.randint(2, 8):
                enough.set()


async def append_all(served: Served, events: list[entry_pb2.Event]) -> dict[str, messages.AppendResponse]:
    async with served.producer() as stub:
        answers = await asyncio.gather(*(append(stub, made) for made in events))
    return {made.event_id: answer for made, answer in zip(events, answers, strict=True)}


async def assert_whole(served: Served, *, entries: int) -> None:
    async with served.caller(
        served.addresses.internal, [Role.DEVELOPER], "default", "dev@example.org"
    ) as stub:
        keys = await stub.GetPublicKeys(messages.GetPublicKeysRequest())
        trail = await read_trail(stub, include_payloads=False)
    report = verify_trail(trail, key=NoteKey.parse(keys.verifier_key))
    assert report.ok, report.findings
    assert [entry.index for entry in trail.entries] == list(range(entries))


async def test_a_killed_service_loses_nothing_it_acknowledged(
    folder: Path, audit_database: ServiceDatabase
) -> None:
    process = AuditProcess("a", folder, audit_database, LocalIssuer(folder / "issuer.pem", "test"))
    total = 0
    for _ in range(ROUNDS):
        events = [[event() for _ in range(EVENTS_EACH)] for _ in range(WRITERS)]
        acked: dict[str, int] = {}
        enough = asyncio.Event()
        async with running(process):
            writers = asyncio.gather(
                *(write_until_gone(process.served, own, acked, enough) for own in events)
            )
            await enough.wait()
            await process.kill()
            await writers
        async with running(process):
            # What was acknowledged is repeated too: it must answer the same index and add nothing.
            answers = await append_all(process.served, [made for own in events for made in own])
            assert acked
            for event_id, index in acked.items():
                assert (answers[event_id].index, answers[event_id].already_existed) == (index, True)
            total += WRITERS * EVENTS_EACH
            assert max(answer.tree_size for answer in answers.values()) == total
            await assert_whole(process.served, entries=total)
