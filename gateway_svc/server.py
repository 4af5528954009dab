"""Builds the gateway and serves it."""

import asyncio
import functools
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import structlog

from gateway_svc import (
    approval_servicer,
    cancels,
    connection_servicer,
    kill_switch,
    limit_servicer,
    policy_servicer,
    servicer,
)
from gateway_svc.approval_delivery import ApprovalDelivery
from gateway_svc.approval_store import ApprovalStore
from gateway_svc.approvals import TOPIC as APPROVALS
from gateway_svc.approvals import Approvals
from gateway_svc.audit_events import AuditTrail
from gateway_svc.audit_log import AuditLog
from gateway_svc.call_check import CallChecks
from gateway_svc.call_limit_store import CallLimitStore
from gateway_svc.call_limits import CallLimits
from gateway_svc.call_store import CallStore
from gateway_svc.calls import Calls
from gateway_svc.config import GatewaySettings
from gateway_svc.connection_store import ConnectionStore
from gateway_svc.connections import Connections
from gateway_svc.database_client import DatabaseClient
from gateway_svc.decision_record import DecisionRecords
from gateway_svc.fetcher import Fetcher
from gateway_svc.gateway_store import GatewayStore
from gateway_svc.kill_switch import KillSwitch
from gateway_svc.live_attempts import LiveAttempts
from gateway_svc.measures import measures
from gateway_svc.names import Names
from gateway_svc.orchestrator_keys import OrchestratorKeys
from gateway_svc.outgoing_http import OutgoingHttp
from gateway_svc.ownership import Ownership
from gateway_svc.pipeline.admission import Admission
from gateway_svc.pipeline.approval import ApprovalCheck
from gateway_svc.pipeline.arguments import ArgumentCheck
from gateway_svc.pipeline.attempt import AttemptCheck
from gateway_svc.pipeline.binding import Binding
from gateway_svc.pipeline.broker import Broker
from gateway_svc.pipeline.cancelable import Cancelable
from gateway_svc.pipeline.execute import Answer, ExecuteCall, Steps
from gateway_svc.pipeline.flights import Flights
from gateway_svc.pipeline.http_run import HttpRunner
from gateway_svc.pipeline.model_binding import ModelBinding
from gateway_svc.pipeline.model_work import ModelWork
from gateway_svc.pipeline.outcome import Outcomes
from gateway_svc.pipeline.permit import PermitCheck
from gateway_svc.pipeline.policy import PolicyCheck
from gateway_svc.pipeline.refusal import Refusal
from gateway_svc.pipeline.replay import Replay
from gateway_svc.pipeline.result import ResultCheck
from gateway_svc.pipeline.run import ToolRunner
from gateway_svc.pipeline.tool_work import ToolWork
from gateway_svc.pipeline.write_ahead import WriteAhead
from gateway_svc.policies import Policies
from gateway_svc.policy_book import TOPIC, PolicyBook
from gateway_svc.policy_fit import NewToolVersions, PolicyFit
from gateway_svc.policy_store import PolicyStore
from gateway_svc.schemas import SchemaCache
from gateway_svc.tool_call import CallKind
from interlock.client.audit_sink import AuditSink
from interlock.client.registry_feed import RegistryFeed
from interlock.gateway.v1 import (
    approval_service_pb2_grpc,
    connection_service_pb2_grpc,
    gateway_service_pb2_grpc,
    limit_service_pb2_grpc,
    policy_service_pb2_grpc,
)
from interlock_sandbox import IsolationLevel, Profile, Sandbox
from svc_kit.background import background
from svc_kit.clients import TokenFile, TokenSource, channel
from svc_kit.clock import SystemClock
from svc_kit.database import Database
from svc_kit.errors import Unavailable
from svc_kit.logging import configure_logging
from svc_kit.outbox import Relay
from svc_kit.secret_box import SecretBox
from svc_kit.server import App, Service, run, token_verifier
from svc_kit.signing import SigningKey
from svc_kit.task_erasure_servicer import task_erasure
from svc_kit.wakeup import Wakeups

log = structlog.get_logger(__name__)

_FEEDS_SECONDS = 3.0
# Sent again on UNAVAILABLE: the log knows a repeat by its event id.
_SAFE_AUDIT_METHODS = ("/interlock.audit.v1.AuditService/Append",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Channels to the other services' internal doors."""

    orchestrator: grpc.aio.Channel
    registry: grpc.aio.Channel
    audit: grpc.aio.Channel


def build(settings: GatewaySettings, *, sandbox: Sandbox | None = None) -> App:  # noqa: PLR0915 - the one place that wires
    """Wire everything; nothing runs before the lifespan is entered, which starts and closes the sandbox."""
    if settings.keys_dir is None:
        raise ValueError("the setting `keys_dir` must name the folder of the receipt key")
    clock = SystemClock()
    database = Database(settings.database_url, application_name="interlock gateway")
    peers = _peers(settings, _token(settings))
    receipt_key = SigningKey.load_or_create(settings.keys_dir, "receipt")
    call_store, policy_store = CallStore(database), PolicyStore(database)
    wakeups = Wakeups(database)
    feed = RegistryFeed(peers.registry)
    book = PolicyBook(policy_store, clock)
    fit = PolicyFit(feed)
    trail, sink = AuditTrail(call_store), AuditSink(peers.audit)
    relay = Relay(
        database, build=trail.build, deliver=sink.deliver, forget=trail.forget, name="gateway outbox"
    )
    ownership = Ownership(
        GatewayStore(database),
        call_store,
        clock,
        slot=settings.slot or f"{socket.gethostname()} {settings.internal_address}",
        wake=relay.wake,
    )
    running = Cancelable()
    names = Names()
    http, audit = OutgoingHttp(names, private=settings.private_networks), AuditLog(peers.audit)
    runner = ToolRunner(
        sandbox or make_sandbox(settings),
        minimum=IsolationLevel[settings.sandbox_minimum],
        clock=clock,
        running=running,
    )
    approval_store = ApprovalStore(database)

    approvals = Approvals(
        approval_store,
        clock,
        lifetime=timedelta(hours=settings.approval_hours),
        own=settings.approve_own,
        committed=_committed(APPROVALS, wakeups, relay),
    )
    delivery = ApprovalDelivery(approval_store, approvals, peers.orchestrator)
    attempts = LiveAttempts(peers.orchestrator, busy=lambda: {*running.tasks(), *delivery.tasks()})
    attempts.on_over(running.cancel_task)
    attempts.on_over(delivery.task_over)
    canceling = cancels.Cancels(
        call_store, Calls(call_store), running, owner=ownership.owner, notify=wakeups.notify
    )
    flights: Flights[Answer] = Flights()
    admission = Admission(running=settings.max_running, waiting=settings.max_waiting)
    schemas = SchemaCache()
    keys = OrchestratorKeys(peers.orchestrator)
    timed = measures()
    connection_store = ConnectionStore(database)

    def connections_committed() -> None:
        wakeups.notify(kill_switch.TOPIC)
        relay.wake()

    connections = Connections(
        connection_store,
        SecretBox.load_or_create(settings.keys_dir / "connections.key"),
        clock,
        committed=connections_committed,
    )
    broker = Broker(
        connections,
        databases=DatabaseClient(names, private=settings.private_networks),
        fetches=Fetcher(http, audit, clock),
        audit=audit,
        clock=clock,
    )
    results = ResultCheck(schemas)
    tool_work = ToolWork(
        binding=Binding(feed),
        arguments=ArgumentCheck(schemas),
        policies=PolicyCheck(book),
        approvals=ApprovalCheck(approvals, asked=delivery.expect),
        runner=runner,
        broker=broker,
        http=HttpRunner(broker, running, results, clock),
        results=results,
        measures=timed,
        clock=clock,
    )
    tool_steps = Steps(
        admission=admission,
        permits=PermitCheck(keys, CallKind.TOOL),
        attempts=AttemptCheck(attempts),
        flights=flights,
        replay=Replay(call_store),
        work=tool_work,
        write_ahead=WriteAhead(call_store, audit, ownership=ownership, clock=clock, beside=flights),
        outcomes=Outcomes(call_store, receipt_key, wake=relay.wake, abandon=ownership.abandon),
        refusal=Refusal(call_store, clock, wake=relay.wake),
    )
    switch = KillSwitch(feed, connection_store, running)
    feed.on_change(switch.registry_changed)
    models = ModelWork(
        binding=ModelBinding(feed, connections),
        credentials=connections,
        http=http,
        running=running,
        clock=clock,
    )
    model_steps = replace(
        tool_steps,
        admission=Admission(running=settings.max_model_calls, waiting=settings.max_waiting),
        permits=PermitCheck(keys, CallKind.MODEL),
        work=models,
    )

    calls = Calls(call_store)
    gateway = servicer.GatewayServicer(
        execute=ExecuteCall(tool_steps, clock, timed),
        call_model=ExecuteCall(model_steps, clock, timed),
        calls=calls,
        cancels=canceling,
        checks=CallChecks(tool_work, feed, book),
        runner=runner,
        receipt_key=receipt_key,
    )
    policies = policy_servicer.PolicyServicer(
        Policies(policy_store, book, fit, clock, committed=_committed(TOPIC, wakeups, relay)),
        DecisionRecords(calls, policy_store),
    )

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for each in (peers.orchestrator, peers.registry, peers.audit):
                stack.push_async_callback(each.close)
            stack.push_async_callback(database.close)
            stack.push_async_callback(call_store.close)
            await ownership.start()
            stack.push_async_callback(ownership.end)
            await runner.start()
            stack.push_async_callback(runner.close)
            await stack.enter_async_context(wakeups.running())
            await stack.enter_async_context(feed)
            woken = stack.enter_context(wakeups.subscribe(TOPIC))
            approvals_changed = stack.enter_context(wakeups.subscribe(APPROVALS))
            asked_to_end = stack.enter_context(wakeups.subscribe(cancels.TOPIC))
            switched = stack.enter_context(wakeups.subscribe(kill_switch.TOPIC))
            loops = (
                ownership.run,
                relay.run,
                attempts.run,
                functools.partial(book.follow, woken),
                NewToolVersions(fit, book, feed).follow,
                functools.partial(canceling.follow, asked_to_end),
                functools.partial(switch.follow, switched),
                functools.partial(delivery.run, approvals_changed),
            )
            await stack.enter_async_context(background(*loops, name="gateway"))
            await _heard(feed, book, attempts)
            stack.push_async_callback(flights.drain, settings.drain_seconds)
            stack.callback(admission.close)
            stack.callback(model_steps.admission.close)
            yield

    def add_gateway(server: grpc.aio.Server) -> None:
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server)

    def add_policies(server: grpc.aio.Server) -> None:
        policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)

    def add_approvals(server: grpc.aio.Server) -> None:
        approval_service_pb2_grpc.add_ApprovalServiceServicer_to_server(
            approval_servicer.ApprovalServicer(approvals, lambda: wakeups.subscribe(APPROVALS)),
            server,
        )

    def add_connections(server: grpc.aio.Server) -> None:
        connection_service_pb2_grpc.add_ConnectionServiceServicer_to_server(
            connection_servicer.ConnectionServicer(connections), server
        )

    limits = limit_servicer.LimitServicer(CallLimits(CallLimitStore(database), clock, committed=relay.wake))

    def add_limits(server: grpc.aio.Server) -> None:
        limit_service_pb2_grpc.add_LimitServiceServicer_to_server(limits, server)

    return App(
        services=(
            Service(name=servicer.NAME, add=add_gateway, roles=servicer.ROLES),
            Service(name=policy_servicer.NAME, add=add_policies, roles=policy_servicer.ROLES),
            Service(name=approval_servicer.NAME, add=add_approvals, roles=approval_servicer.ROLES),
            Service(name=limit_servicer.NAME, add=add_limits, roles=limit_servicer.ROLES),
            Service(name=connection_servicer.NAME, add=add_connections, roles=connection_servicer.ROLES),
            task_erasure(database),
        ),
        lifespan=lifespan,
    )


def _committed(topic: str, wakeups: Wakeups, relay: Relay[Any]) -> Callable[[], None]:
    """What is called after a commit: others read again, and the log is told."""

    def tell() -> None:
        wakeups.notify(topic)
        relay.wake()

    return tell


async def serve() -> None:
    """Serve as the environment says, until SIGTERM."""
    settings = GatewaySettings()
    configure_logging(service="gateway", level=settings.log_level, log_format=settings.log_format)
    gateway = build(settings)
    await run(gateway.services, settings, verifier=token_verifier(settings), lifespan=gateway.lifespan)


def _token(settings: GatewaySettings) -> TokenSource:
    if settings.token_file is None:
        raise ValueError("the setting `token_file` must name the file of the gateway's own token")
    return TokenFile(settings.token_file)


def _peers(settings: GatewaySettings, token: TokenSource) -> Peers:
    def to(address: str, *, safe: Sequence[str] = ()) -> grpc.aio.Channel:
        return channel(
            address,
            token,
            safe_methods=safe,
            allow_plaintext_beyond_loopback=settings.allow_plaintext_beyond_loopback,
        )

    return Peers(
        orchestrator=to(settings.orchestrator_address),
        registry=to(settings.registry_address),
        audit=to(settings.audit_address, safe=_SAFE_AUDIT_METHODS),
    )


def make_sandbox(settings: GatewaySettings) -> Sandbox:
    """The sandbox that these settings ask for, not yet started."""
    return Sandbox(
        minimum=IsolationLevel[settings.sandbox_minimum],
        spares=settings.sandbox_spares,
        max_concurrent=settings.max_running,
        profiles={
            name: Profile(packages=each.packages, python=each.python, preload=tuple(each.preload))
            for name, each in settings.sandbox_profiles.items()
        },
    )


async def _heard(feed: RegistryFeed, book: PolicyBook, attempts: LiveAttempts) -> None:
    """Wait a little for what decisions stand on, so that the first calls are not refused as POLICY_STALE."""
    try:
        async with asyncio.timeout(_FEEDS_SECONDS):
            await book.refresh()
            await feed.wait_ready()
            if not attempts.words:
                await attempts.word()
    except (TimeoutError, Unavailable):
        log.warning("feeds_not_heard_yet")
