"""Builds the orchestrator and serves it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from interlock.client.audit_sink import AuditSink
from interlock.client.registry_feed import RegistryFeed
from interlock.orchestrator.v1 import (
    orchestrator_service_pb2_grpc,
    queue_service_pb2_grpc,
    worker_service_pb2_grpc,
)
from orchestrator_svc import queue_servicer, servicer, store, worker_servicer
from orchestrator_svc.admission import Admission
from orchestrator_svc.agents import Agents
from orchestrator_svc.announcements import EVENTS, FAMILY, OUTBOX, Announcements
from orchestrator_svc.attempt_feed import AttemptFeed
from orchestrator_svc.attempts import Attempts
from orchestrator_svc.audit import AuditTrail
from orchestrator_svc.blobs import Blobs
from orchestrator_svc.children import ChildLimits
from orchestrator_svc.claims import Claims
from orchestrator_svc.config import OrchestratorSettings
from orchestrator_svc.explain import Explanations
from orchestrator_svc.families import Families
from orchestrator_svc.hub import Hub
from orchestrator_svc.inputs import Inputs
from orchestrator_svc.nudges import Nudger, RedisNudges, Sweep
from orchestrator_svc.past import Past
from orchestrator_svc.progress import ProgressFeed
from orchestrator_svc.queues import Queues
from orchestrator_svc.reaper import Reaper
from orchestrator_svc.receipts import GatewayKeys, Receipts
from orchestrator_svc.repeats import Repeats
from orchestrator_svc.rights import Rights
from orchestrator_svc.sessions import Sessions
from orchestrator_svc.submissions import Submissions
from orchestrator_svc.task_metrics import TaskMetrics
from orchestrator_svc.tasks import Tasks
from orchestrator_svc.undisturbed import settled
from orchestrator_svc.upkeep import Upkeep
from orchestrator_svc.watch import Watches
from orchestrator_svc.watch_tasks import TaskListWatches
from orchestrator_svc.workers import Workers
from svc_kit.advisory import Leader
from svc_kit.audit_gate import AuditGate
from svc_kit.background import background
from svc_kit.clients import TokenFile, channel
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.logging import configure_logging
from svc_kit.metrics import commit_lane
from svc_kit.outbox import Relay
from svc_kit.server import App, Service, run, token_verifier
from svc_kit.signing import SigningKey
from svc_kit.task_erasure_servicer import task_erasure
from svc_kit.wakeup import Wakeups

_NEEDED = (
    "database_url",
    "redis_url",
    "token_file",
    "keys_dir",
    "registry_address",
    "gateway_address",
    "audit_address",
)
_FEED_SECONDS = 1.0
_SAFE_METHODS = ("/interlock.gateway.v1.GatewayService/GetPublicKeys",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Channels to the other services' internal doors."""

    registry: grpc.aio.Channel
    gateway: grpc.aio.Channel
    audit: grpc.aio.Channel


def build(settings: OrchestratorSettings) -> App:
    """Wire everything; nothing runs before the lifespan is entered."""
    _check(settings)
    database = Database(settings.database_url, application_name="interlock orchestrator")
    wakeups = Wakeups(database)
    peers = _peers(settings)
    feed = RegistryFeed(peers.registry)
    rights = _rights(settings)

    nudger = Nudger(RedisNudges(settings.redis_url))
    announcer = Announcements(wakeups, nudger)
    relay = Relay(
        database,
        build=AuditTrail(store.AuditStore(database)).build,
        deliver=AuditSink(peers.audit).deliver,
        name="orchestrator outbox",
        woken=wakeups.subscribe(OUTBOX),
    )
    gate = AuditGate(relay.backlog, limit=settings.audit_backlog_limit)
    agents, blobs = (
        Agents(feed),
        Blobs(store.BlobStore(database), tenant_bytes=settings.blob_bytes_per_tenant),
    )
    task_store, attempt_store = store.TaskStore(database), store.AttemptStore(database)
    event_store, upkeep_store = store.EventStore(database), store.UpkeepStore(database)
    submissions = Submissions(
        store=store.SubmissionStore(database),
        admission=Admission(
            store=store.AdmissionStore(database), announcer=announcer, grace=settings.wind_up_seconds
        ),
        tasks=task_store,
        agents=agents,
        gate=gate,
        blobs=blobs,
        announcer=announcer,
        observe=commit_lane("submit"),
    )
    tasks = Tasks(store=task_store, locks=attempt_store, announcer=announcer, grace=settings.wind_up_seconds)
    inputs = Inputs(store=store.InputStore(database), tasks=task_store, announcer=announcer)
    sessions = Sessions(store=store.SessionStore(database), announcer=announcer, lease=settings.lease_seconds)
    claims = Claims(store=store.ClaimStore(database), announcer=announcer, observe=commit_lane("claim"))
    attempts = Attempts(
        store=attempt_store,
        bindings=agents,
        announcer=announcer,
        observe=commit_lane("attempt"),
        limits=ChildLimits(
            depth=settings.child_depth_limit, children=settings.children_limit, tree=settings.tree_limit
        ),
    )
    repeats = Repeats(
        store=store.RepeatStore(database), tasks=task_store, submissions=submissions, agents=agents, gate=gate
    )
    hub, progress = (
        Hub(
            event_store,
            wakeups.subscribe(EVENTS),
            buffer=settings.watch_buffer,
            list_buffer=settings.watch_tasks_buffer,
        ),
        ProgressFeed(store=store.ProgressStore(database), wakeups=wakeups),
    )
    families = Families(
        store=store.ChildStore(database),
        announcer=announcer,
        woken=wakeups.subscribe(FAMILY),
        grace=settings.wind_up_seconds,
    )
    reaper = Reaper(
        sessions=sessions, store=upkeep_store, announcer=announcer, share=settings.mass_lapse_share
    )
    watches, lists = _watching(hub, progress, event_store, settings)
    sweep = Sweep(upkeep_store, nudger)
    upkeep = Upkeep(upkeep_store, hours=settings.request_id_hours, event_hours=settings.event_retention_hours)

    async def keep_time() -> None:
        async with background(
            reaper.run, sweep.run, upkeep.run, families.run, blobs.sweep, name="orchestrator timekeeper"
        ):
            await asyncio.Event().wait()

    leader = Leader(database, "orchestrator timekeeper", keep_time)
    people = servicer.OrchestratorServicer(
        submissions=submissions,
        repeats=repeats,
        tasks=tasks,
        task_metrics=TaskMetrics(store.TaskMetricsStore(database)),
        inputs=inputs,
        blobs=blobs,
        watches=watches,
        attempts=AttemptFeed(store.AttemptFeedStore(database), wakeups, topic=EVENTS),
        lists=lists,
        explanations=Explanations(store.ExplainStore(database)),
        rights=rights,
    )
    workers = worker_servicer.WorkerServicer(
        sessions=sessions,
        claims=claims,
        attempts=attempts,
        submissions=submissions,
        tasks=tasks,
        blobs=blobs,
        rights=rights,
        receipts=Receipts(GatewayKeys(peers.gateway)),
        progress=progress,
        wakeups=wakeups,
    )
    operators = queue_servicer.QueueServicer(
        queues=Queues(store=store.QueueStore(database), announcer=announcer),
        workers=Workers(store=store.WorkerStore(database), sessions=sessions, announcer=announcer),
    )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for each in (peers.registry, peers.gateway, peers.audit):
                stack.push_async_callback(each.close)
            stack.push_async_callback(database.close)
            stack.push_async_callback(settled)
            # The first connection asks the server a few questions; undisturbed, before anything is cancelled.
            await gate.open()
            await stack.enter_async_context(wakeups.running())
            await stack.enter_async_context(feed)
            # Usually there in milliseconds; without it new tasks are refused, and nothing else. Before the
            # reaper begins to count: workers cannot be heard until the doors are open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FEED_SECONDS):
                    await feed.wait_ready()
            loops = (nudger.run, relay.run, gate.run, hub.run, progress.run, leader.run)
            await stack.enter_async_context(background(*loops, name="orchestrator"))
            for lane in (submissions, claims, attempts):
                stack.push_async_callback(lane.close)
            yield

    return App(services=_services(people, operators, workers, database), lifespan=lifespan)


def _services(
    people: servicer.OrchestratorServicer,
    operators: queue_servicer.QueueServicer,
    workers: worker_servicer.WorkerServicer,
    database: Database,
) -> tuple[Service, ...]:
    def add_people(server: grpc.aio.Server) -> None:
        orchestrator_service_pb2_grpc.add_OrchestratorServiceServicer_to_server(people, server)

    def add_operators(server: grpc.aio.Server) -> None:
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(operators, server)

    def add_workers(server: grpc.aio.Server) -> None:
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(workers, server)

    return (
        Service(name=servicer.NAME, add=add_people, roles=servicer.ROLES, waiting=servicer.WAITING),
        Service(name=queue_servicer.NAME, add=add_operators, roles=queue_servicer.ROLES),
        Service(name=worker_servicer.NAME, add=add_workers, roles=worker_servicer.ROLES),
        task_erasure(database),
    )


async def serve() -> None:
    """Serve as the environment says, until SIGTERM."""
    settings = OrchestratorSettings()
    configure_logging(service="orchestrator", level=settings.log_level, log_format=settings.log_format)
    orchestrator = build(settings)
    await run(
        orchestrator.services,
        settings,
        verifier=token_verifier(settings),
        lifespan=orchestrator.lifespan,
    )


def _check(settings: OrchestratorSettings) -> None:
    missing = [name for name in _NEEDED if not getattr(settings, name)]
    if missing:
        raise ValueError(f"these settings of the orchestrator are missing: {', '.join(missing)}")


def _peers(settings: OrchestratorSettings) -> Peers:
    token = TokenFile(settings.token_file or Path())

    def to(address: str) -> grpc.aio.Channel:
        return channel(
            address,
            token,
            safe_methods=_SAFE_METHODS,
            allow_plaintext_beyond_loopback=settings.allow_plaintext_beyond_loopback,
        )

    return Peers(
        registry=to(settings.registry_address),
        gateway=to(settings.gateway_address),
        audit=to(settings.audit_address),
    )


def _watching(
    hub: Hub, progress: ProgressFeed, events: store.EventStore, settings: OrchestratorSettings
) -> tuple[Watches, TaskListWatches]:
    watches = Watches(hub=hub, progress=progress, store=events, bookmark_seconds=settings.bookmark_seconds)
    lists = TaskListWatches(
        hub=hub,
        store=events,
        past=Past(events),
        bookmark_seconds=settings.bookmark_seconds,
        flush_seconds=settings.watch_flush_seconds,
    )
    return watches, lists


def _rights(settings: OrchestratorSettings) -> Rights:
    folder = settings.keys_dir or Path()
    return Rights(
        attempt_key=SigningKey.load_or_create(folder, "attempt"),
        permit_key=SigningKey.load_or_create(folder, "permit"),
        clock=SystemClock(),
        token_seconds=settings.attempt_token_seconds,
    )
