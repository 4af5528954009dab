"""An audit log on a real PostgreSQL, with the rights of the service's role."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import sql
from sqlalchemy import make_url

from audit_svc.archive import FileArchive
from audit_svc.checkpoints import Checkpoints
from audit_svc.config import AuditSettings
from audit_svc.event import StoredEntry
from audit_svc.explanations import Explanations
from audit_svc.key_rotation import KeyRotation
from audit_svc.key_store import KeyStore
from audit_svc.log import AuditLog
from audit_svc.log_verifier import LogVerifier
from audit_svc.pieces import Pieces
from audit_svc.proofs import Proofs
from audit_svc.removal_store import RemovedParts
from audit_svc.removals import Removals
from audit_svc.signer import CheckpointSigner
from audit_svc.store import Store
from audit_svc.task_trail import TaskTrails
from audit_svc.text_index import TextIndexer
from audit_svc.text_store import TextStore
from audit_svc.trail import AuditReader
from audit_svc.verification_store import VerificationStore
from interlock_suite.databases import ServiceDatabase
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.identity import LocalIssuer
from svc_kit.migrations import VERSION_TABLE
from tests.audit.served import ORIGIN, Served, serving
from tests.suite_fixtures import PostgresServer

SIGNER = CheckpointSigner([Ed25519PrivateKey.from_private_bytes(bytes(range(32)))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """The parts of one audit service over a database, without its doors."""

    database: Database
    store: Store
    rows: VerificationStore
    log: AuditLog
    checkpoints: Checkpoints
    reader: AuditReader
    verifier: LogVerifier
    rotation: KeyRotation
    texts: TextIndexer
    task_trails: TaskTrails
    removals: Removals

    @classmethod
    def over(
        cls, url: str, *, archive: FileArchive | None = None, signer: CheckpointSigner = SIGNER
    ) -> "Replica":
        database, clock = Database(url), SystemClock()
        store = Store(database, origin_prefix=ORIGIN)
        proofs = Proofs(store)
        checkpoints = Checkpoints(store, proofs, signer, clock, origin_prefix=ORIGIN, archive=archive)
        log = AuditLog(store, clock, origin_prefix=ORIGIN)
        texts = TextStore(database)
        rows = VerificationStore(database, store)
        explanations = Explanations(RemovedParts(database), store, proofs, checkpoints)
        return cls(
            database=database,
            store=store,
            rows=rows,
            log=log,
            verifier=LogVerifier(Pieces(rows, texts), rows, checkpoints, explanations, log),
            rotation=KeyRotation(log, store, KeyStore(database), signer, clock),
            texts=TextIndexer(texts, clock),
            task_trails=TaskTrails(rows, proofs, checkpoints, explanations),
            removals=Removals(log, clock),
            checkpoints=checkpoints,
            reader=AuditReader(store, proofs, checkpoints),
        )

    async def between(self, tenant: str, begin: int, end: int, *, with_bodies: bool) -> list[StoredEntry]:
        """Entries of which none was removed."""
        found = await self.reader.between(tenant, begin, end, with_bodies=with_bodies)
        entries = [each for each in found if isinstance(each, StoredEntry)]
        assert len(entries) == len(found)
        return entries

    async def close(self) -> None:
        await self.log.close()
        await self.database.close()


@pytest.fixture(scope="session")
def shared_database(postgres_server: PostgresServer) -> ServiceDatabase:
    return postgres_server.migrated_database("audit")


@pytest.fixture
def audit_database(shared_database: ServiceDatabase) -> ServiceDatabase:
    """An empty log: the session's one database, emptied as only its owner can who drops the guards."""
    with psycopg.connect(shared_database.owner_url) as connection:
        filled = _filled(connection)
        if filled:
            guards = connection.execute(
                "SELECT tgrelid::regclass::text, tgname FROM pg_trigger"
                " WHERE NOT tgisinternal AND tgparentid = 0 AND tgrelid::regclass::text = ANY(%s)",
                [filled],
            ).fetchall()
            _each(connection, "ALTER TABLE {} DISABLE TRIGGER {}", guards)
            names = sql.SQL(", ").join(map(sql.Identifier, filled))
            connection.execute(sql.SQL("TRUNCATE {}").format(names))
        # Also those that the test before switched off.
        sleeping = connection.execute(
            "SELECT tgrelid::regclass::text, tgname FROM pg_trigger"
            " WHERE NOT tgisinternal AND tgparentid = 0 AND tgenabled <> 'A'"
        ).fetchall()
        _each(connection, "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}", sleeping)
    return shared_database


def _filled(connection: Any) -> list[str]:
    """The tables and months that hold something, with those that refer to them: to empty one makes files."""
    names = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    ).fetchall()
    question = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(name, sql.Identifier(name))
        for (name,) in names
        if name != VERSION_TABLE
    )
    filled = {name for (name,) in connection.execute(question).fetchall()}
    refer = connection.execute(
        "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
    ).fetchall()
    while more := {name for name, to in refer if to in filled} - filled:
        filled |= more
    return sorted(filled)


def _each(connection: Any, statement: LiteralString, guards: list[tuple[str, str]]) -> None:
    for table, guard in guards:
        connection.execute(sql.SQL(statement).format(sql.Identifier(table), sql.Identifier(guard)))


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


def settings_for(database: ServiceDatabase, folder: Path) -> AuditSettings:
    return AuditSettings(
        origin=ORIGIN,
        public_address="127.0.0.1:0",
        internal_address="127.0.0.1:0",
        database_url=database.service_url,
        keys_dir=folder / "keys",
        checkpoints_dir=folder / "checkpoints",
        drain_seconds=1,
    )


@pytest.fixture
async def audit(audit_database: ServiceDatabase, tmp_path: Path) -> AsyncIterator[Served]:
    """The service at its doors."""
    issuer = LocalIssuer(tmp_path / "issuer.pem", "test")
    async with serving(settings_for(audit_database, tmp_path), issuer) as served:
        yield served
