"""An audit log on a real PostgreSQL, with the rights of the service's role."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import make_url

from audit_svc.archive import FileArchive
from audit_svc.checkpoints import Checkpoints
from audit_svc.log import AuditLog
from audit_svc.proofs import Proofs
from audit_svc.signer import CheckpointSigner
from audit_svc.store import Store
from audit_svc.trail import AuditReader
from interlock_suite.databases import ServiceDatabase
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.migrations import run_migrations
from tests.suite_fixtures import PostgresServer

ORIGIN = "interlock.test/suite"
SIGNER = CheckpointSigner(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """The parts of one audit service over a database, without its doors."""

    database: Database
    store: Store
    log: AuditLog
    checkpoints: Checkpoints
    reader: AuditReader

    @classmethod
    def over(cls, url: str, *, archive: FileArchive | None = None) -> "Replica":
        database, clock = Database(url), SystemClock()
        store = Store(database, origin_prefix=ORIGIN)
        proofs = Proofs(store)
        checkpoints = Checkpoints(store, proofs, SIGNER, clock, origin_prefix=ORIGIN, archive=archive)
        return cls(
            database=database,
            store=store,
            log=AuditLog(store, clock, origin_prefix=ORIGIN),
            checkpoints=checkpoints,
            reader=AuditReader(store, proofs, checkpoints),
        )

    async def close(self) -> None:
        await self.log.close()
        await self.database.close()


@pytest.fixture
async def audit_database(postgres_server: PostgresServer) -> ServiceDatabase:
    made = await asyncio.to_thread(postgres_server.make_database, "audit")
    await asyncio.to_thread(run_migrations, "audit_svc", made.owner_url, grants_to=made.service_role)
    return made


@pytest.fixture
async def replica(audit_database: ServiceDatabase, tmp_path: Path) -> AsyncIterator[Replica]:
    replica = Replica.over(audit_database.service_url, archive=FileArchive(tmp_path / "checkpoints"))
    try:
        yield replica
    finally:
        await replica.close()


AdminUrl: TypeAlias = Callable[[ServiceDatabase], str]


@pytest.fixture
def admin_url_of(postgres_server: PostgresServer) -> AdminUrl:
    """How the administrator reaches a service's database."""

    def url(made: ServiceDatabase) -> str:
        return make_url(postgres_server.url).set(database=made.name).render_as_string(hide_password=False)

    return url
