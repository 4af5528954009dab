"""Serves the gRPC services of one process on two doors, from the first port to the last reply.

The public door serves the methods that say DOOR_PUBLIC, the internal one all. Both serve health and
reflection without a token.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from interlock.common.addresses import parse_address
from svc_kit.doors import MethodTable, Service, method_table
from svc_kit.identity.issuers import IssuersFile
from svc_kit.identity.verifier import TokenVerifier
from svc_kit.interceptors import interceptor_chain
from svc_kit.interceptors.drain import Drain
from svc_kit.listening import BindError, bind, check_exposure, server_options
from svc_kit.metrics import metrics_page
from svc_kit.reflection import add_reflection
from svc_kit.settings import ServiceSettings

__all__ = ["Addresses", "App", "BindError", "Service", "run", "run_main", "running_server", "token_verifier"]

log = structlog.get_logger(__name__)

_HEALTH_PAUSE_SECONDS = 0.05  # watchers of health hear NOT_SERVING before their stream ends

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where a server listens, with the ports that the system chose; "" for what is off."""

    public: str
    internal: str
    metrics: str


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """A service as its `build` made it: the gRPC services, and what lives as long as they."""

    services: Sequence[Service]
    lifespan: Lifespan


def run_main(main: Coroutine[Any, Any, None]) -> None:
    """Run the entry point of a service on uvloop until it returns."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def token_verifier(settings: ServiceSettings) -> TokenVerifier:
    """The verifier for `settings.issuers`; ValueError if that is not set."""
    if settings.issuers is None:
        raise ValueError("the setting `issuers` must name the file of the trusted issuers")
    return TokenVerifier(IssuersFile(settings.issuers))


async def run(
    services: Sequence[Service],
    settings: ServiceSettings,
    *,
    verifier: TokenVerifier,
    lifespan: Lifespan = contextlib.nullcontext,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain at once.

    `lifespan` is entered before the first call is taken and left after the last one was answered.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        async with running_server(
            services, settings, verifier=verifier, lifespan=lifespan, hurry=hurry
        ) as addresses:
            log.info(
                "serving", public=addresses.public, internal=addresses.internal, metrics=addresses.metrics
            )
            await stop.wait()
            log.info("draining", seconds=settings.drain_seconds)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    log.info("stopped")


@asynccontextmanager
async def running_server(
    services: Sequence[Service],
    settings: ServiceSettings | None = None,
    *,
    verifier: TokenVerifier,
    lifespan: Lifespan = contextlib.nullcontext,
    hurry: asyncio.Event | None = None,
) -> AsyncIterator[Addresses]:
    """Serve inside the block, and drain when it ends: what `run` does, without signals.

    The default settings listen on a free loopback port. Setting `hurry` cuts the drain short.
    """
    settings = settings or ServiceSettings()
    table = method_table(services)
    check_exposure(settings, verifier)
    drain = Drain()
    status = health.aio.HealthServicer()
    async with AsyncExitStack() as stack:
        metrics = await stack.enter_async_context(metrics_page(settings.metrics_address))
        await stack.enter_async_context(lifespan())
        doors: list[grpc.aio.Server] = []
        stack.push_async_callback(
            _stop, doors, status, drain, settings.drain_seconds, hurry or asyncio.Event()
        )

        async def open_door(text: str, *, public: bool) -> str:
            refused = table.internal if public else frozenset[str]()
            server = _build(services, settings, table, verifier, refused=refused, drain=drain, status=status)
            bound = bind(server, parse_address(text), settings)
            await server.start()
            doors.append(server)
            return bound.text

        internal = (
            await open_door(settings.internal_address, public=False) if settings.internal_address else ""
        )
        public_address = (
            await open_door(settings.public_address, public=True) if settings.public_address else ""
        )
        for service in services:
            await status.set(service.name, health_pb2.HealthCheckResponse.SERVING)
        yield Addresses(public=public_address, internal=internal, metrics=metrics)


def _build(
    services: Sequence[Service],
    settings: ServiceSettings,
    table: MethodTable,
    verifier: TokenVerifier,
    *,
    refused: frozenset[str],
    drain: Drain,
    status: health.aio.HealthServicer,
) -> grpc.aio.Server:
    server = grpc.aio.server(
        interceptors=[
            interceptor_chain(
                verifier=verifier,
                roles=table.roles,
                refused=refused,
                drain=drain,
                waiting=table.waiting,
                default_deadline=settings.default_deadline_seconds,
            )
        ],
        options=server_options(settings),
        maximum_concurrent_rpcs=settings.max_concurrent_calls,
    )
    for service in services:
        service.add(server)
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    add_reflection(server, [*(service.name for service in services), health.SERVICE_NAME])
    return server


async def _stop(
    doors: Sequence[grpc.aio.Server],
    status: health.aio.HealthServicer,
    drain: Drain,
    seconds: float,
    hurry: asyncio.Event,
) -> None:
    """Say NOT_SERVING, end streams, let calls that run finish, then cut off what is left."""
    await status.enter_graceful_shutdown()
    await asyncio.sleep(_HEALTH_PAUSE_SECONDS)
    drain.begin()
    stopping = asyncio.gather(*(door.stop(seconds) for door in doors))
    hurrying = asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait((stopping, hurrying), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            # A second stop with a shorter grace overrides the first one.
            await asyncio.gather(*(door.stop(0) for door in doors))
        await stopping
    finally:
        hurrying.cancel()
