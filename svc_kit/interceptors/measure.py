"""Counts and times every call."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from svc_kit import metrics
from svc_kit.call_context import current_call
from svc_kit.interceptors.handlers import Incoming, ScopeInterceptor


class MeasureInterceptor(ScopeInterceptor):
    """Request count and latency by method and code, and calls in flight by method."""

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        started = time.perf_counter()
        method = incoming.method.name
        in_flight = metrics.RPC_IN_FLIGHT.labels(method)
        in_flight.inc()
        code = grpc.StatusCode.UNKNOWN
        try:
            yield
            code = grpc.StatusCode.OK
        finally:
            call = current_call()
            name = (call.code if call and call.code else code).name
            in_flight.dec()
            metrics.RPC_HANDLED.labels(method, name).inc()
            metrics.RPC_SECONDS.labels(method, name).observe(time.perf_counter() - started)
