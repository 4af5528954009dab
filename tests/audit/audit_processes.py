"""Audit services as processes of their own, which can be killed."""

import asyncio
import os
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
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import LocalIssuer
from svc_kit.server import Addresses
from tests.audit.served import ORIGIN, Served


@pytest.fixture(name="folder")
def short_folder() -> Iterator[Path]:
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
