"""Builds the audit service and serves it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import grpc
from prometheus_client import Histogram

from audit_svc.archive import FileArchive
from audit_svc.checkpoints import Checkpoints
from audit_svc.config import AuditSettings
from audit_svc.log import AuditLog
from audit_svc.payload_reads import PayloadReads
from audit_svc.proofs import Proofs
from audit_svc.publisher import Publisher
from audit_svc.servicer import NAME, ROLES, AuditServicer
from audit_svc.signer import CheckpointSigner
from audit_svc.store import Store
from audit_svc.trail import AuditReader
from interlock.audit.v1 import audit_service_pb2_grpc
from svc_kit import metrics
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.logging import configure_logging
from svc_kit.server import Service, run, token_verifier

_COMMIT_BATCHES = Histogram(
    metrics.GROUP_COMMIT_ROWS, "Batches of events per commit.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
_COMMIT_SECONDS = Histogram(metrics.GROUP_COMMIT_SECONDS, "Seconds per commit.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditService:
    """What `svc_kit.server` serves: the gRPC service, and what lives as long as it."""

    service: Service
    lifespan: Callable[[], AbstractAsyncContextManager[None]]


def build(settings: AuditSettings) -> AuditService:
    """Wire everything; nothing runs before the lifespan is entered."""
    if settings.keys_dir is None:
        raise ValueError("the setting `keys_dir` must name the folder of the checkpoint key")
    clock = SystemClock()
    database = Database(settings.database_url, application_name="interlock audit")
    store = Store(database, origin_prefix=settings.origin)
    proofs = Proofs(store)
    signer = CheckpointSigner.load_or_create(settings.keys_dir)
    archive = FileArchive(settings.checkpoints_dir) if settings.checkpoints_dir else None
    checkpoints = Checkpoints(store, proofs, signer, clock, origin_prefix=settings.origin, archive=archive)
    log = AuditLog(store, clock, origin_prefix=settings.origin, observe=_observe_commit)
    servicer = AuditServicer(
        log=log,
        reader=AuditReader(store, proofs, checkpoints),
        checkpoints=checkpoints,
        reads=PayloadReads(log, clock),
        signer=signer,
        clock=clock,
    )
    publisher = Publisher(database, checkpoints)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        publishing = asyncio.create_task(publisher.run(), name="publish-checkpoints")
        try:
            yield
        finally:
            await log.close()
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await database.close()

    def add(server: grpc.aio.Server) -> None:
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)

    return AuditService(service=Service(name=NAME, add=add, roles=ROLES), lifespan=lifespan)


def _observe_commit(batches: int, seconds: float) -> None:
    _COMMIT_BATCHES.observe(batches)
    _COMMIT_SECONDS.observe(seconds)


async def serve() -> None:
    """Serve as the environment says, until SIGTERM."""
    settings = AuditSettings()
    configure_logging(service="audit", level=settings.log_level, log_format=settings.log_format)
    audit = build(settings)
    await run([audit.service], settings, verifier=token_verifier(settings), lifespan=audit.lifespan)
