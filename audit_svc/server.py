"""Builds the audit service and serves it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from audit_svc import erasure_servicer, retention_servicer
from audit_svc.archive import FileArchive
from audit_svc.checkpoints import Checkpoints
from audit_svc.completeness import CompletenessReport, CompletenessWatch
from audit_svc.completeness_store import CompletenessStore
from audit_svc.config import AuditSettings
from audit_svc.contents import Contents
from audit_svc.erasure_store import ErasureStore
from audit_svc.erasures import ErasureRunner, Erasures
from audit_svc.explanations import Explanations
from audit_svc.holds import Holds
from audit_svc.holds_store import HoldStore
from audit_svc.key_rotation import KeyRotation
from audit_svc.key_store import KeyStore
from audit_svc.log import AuditLog
from audit_svc.log_verifier import LogVerifier
from audit_svc.months import MonthMaker
from audit_svc.months_store import MonthStore
from audit_svc.payload_reads import PayloadReads
from audit_svc.pieces import Pieces
from audit_svc.proofs import Proofs
from audit_svc.publisher import Publisher
from audit_svc.removal_store import RemovedParts
from audit_svc.removals import Removals
from audit_svc.retention_policies import RetentionPolicies
from audit_svc.retention_servicer import RetentionServicer
from audit_svc.retention_store import RetentionStore
from audit_svc.search import AuditSearch
from audit_svc.servicer import NAME, ROLES, AuditServicer
from audit_svc.signer import CheckpointSigner
from audit_svc.store import Store
from audit_svc.sweep import RetentionSweeper, Sweep
from audit_svc.tail import Heads, Tail
from audit_svc.tail_store import TailStore
from audit_svc.task_keepers import GrpcTaskKeeper
from audit_svc.task_trail import TaskTrails
from audit_svc.text_index import TextIndexer
from audit_svc.text_store import TextStore
from audit_svc.trail import AuditReader
from audit_svc.verification_store import VerificationStore
from interlock.audit.v1 import (
    audit_service_pb2_grpc,
    erasure_service_pb2_grpc,
    retention_service_pb2_grpc,
)
from svc_kit import metrics
from svc_kit.background import background
from svc_kit.clients import TokenFile, channel
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.logging import configure_logging
from svc_kit.server import App, Service, run, token_verifier

# Done again it changes nothing.
_SAFE_METHODS = ("/interlock.common.v1.TaskErasureService/EraseTasks",)


def build(settings: AuditSettings) -> App:
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
    log = AuditLog(store, clock, origin_prefix=settings.origin, observe=metrics.commit_lane("append"))
    reader = AuditReader(store, proofs, checkpoints)
    explanations = Explanations(RemovedParts(database), store, proofs, checkpoints)
    texts = TextStore(database)
    rotation = KeyRotation(log, store, KeyStore(database), signer, clock)
    verified_rows = VerificationStore(database, store)
    tail_store = TailStore(database, store)
    heads = Heads(tail_store)
    progress = CompletenessStore(database)
    completeness = CompletenessReport(progress)
    completeness_watch = CompletenessWatch(database, progress, completeness, clock)
    servicer = AuditServicer(
        log=log,
        reader=reader,
        task_trails=TaskTrails(verified_rows, proofs, checkpoints, explanations),
        search=AuditSearch(store, texts, reader, checkpoints),
        verifier=LogVerifier(Pieces(verified_rows, texts), verified_rows, checkpoints, explanations, log),
        checkpoints=checkpoints,
        reads=PayloadReads(log, clock),
        completeness=completeness,
        tail=Tail(tail_store, heads, checkpoints, clock),
        contents=Contents(store, RemovedParts(database)),
        signer=signer,
        rotation=rotation,
        clock=clock,
    )
    publisher = Publisher(database, checkpoints, rotation)
    text_indexer = TextIndexer(texts, clock)
    months = MonthMaker(database, MonthStore(database))
    erasure_store = ErasureStore(database)
    erasures = Erasures(erasure_store, store, clock)
    keepers = _keepers(settings)
    removals = Removals(log, clock)
    retention_store = RetentionStore(database)
    holds = Holds(log, store, HoldStore(database), retention_store, clock)
    eraser = ErasureRunner(
        database, erasure_store, removals, keepers, clock, holds=holds, begun=erasures.begun
    )
    sweep = Sweep(retention_store, removals, clock)
    sweeper = RetentionSweeper(database, sweep)
    retention = RetentionServicer(
        policies=RetentionPolicies(log, store, retention_store, clock),
        holds=holds,
        sweep=sweep,
        logs=store,
    )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for keeper in keepers:
                stack.push_async_callback(keeper.close)
            stack.push_async_callback(database.close)
            await stack.enter_async_context(
                background(
                    publisher.run,
                    months.run,
                    text_indexer.run,
                    eraser.run,
                    sweeper.run,
                    heads.run,
                    completeness_watch.run,
                    name="audit",
                )
            )
            stack.push_async_callback(log.close)
            yield

    def add(server: grpc.aio.Server) -> None:
        audit_service_pb2_grpc.add_AuditServiceServicer_to_server(servicer, server)

    def add_erasures(server: grpc.aio.Server) -> None:
        erasure_service_pb2_grpc.add_ErasureServiceServicer_to_server(
            erasure_servicer.ErasureServicer(erasures), server
        )

    def add_retention(server: grpc.aio.Server) -> None:
        retention_service_pb2_grpc.add_RetentionServiceServicer_to_server(retention, server)

    return App(
        services=(
            Service(name=NAME, add=add, roles=ROLES),
            Service(name=erasure_servicer.NAME, add=add_erasures, roles=erasure_servicer.ROLES),
            Service(name=retention_servicer.NAME, add=add_retention, roles=retention_servicer.ROLES),
        ),
        lifespan=lifespan,
    )


def _keepers(settings: AuditSettings) -> tuple[GrpcTaskKeeper, ...]:
    """What else keeps contents of tasks; without a token or an address it cannot be asked."""
    addresses = {"orchestrator": settings.orchestrator_address, "gateway": settings.gateway_address}
    return tuple(
        GrpcTaskKeeper(
            name,
            channel(
                address,
                TokenFile(settings.token_file),
                safe_methods=_SAFE_METHODS,
                allow_plaintext_beyond_loopback=settings.allow_plaintext_beyond_loopback,
            )
            if address and settings.token_file
            else None,
        )
        for name, address in addresses.items()
    )


async def serve() -> None:
    """Serve as the environment says, until SIGTERM."""
    settings = AuditSettings()
    configure_logging(service="audit", level=settings.log_level, log_format=settings.log_format)
    audit = build(settings)
    await run(audit.services, settings, verifier=token_verifier(settings), lifespan=audit.lifespan)
