"""Request id and trace: taken from the caller, bound to the logs, sent back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from interlock.common.remote_error import REQUEST_ID_KEY
from svc_kit.call_context import call_from_metadata, enter_call
from svc_kit.interceptors.handlers import Incoming, ScopeInterceptor


class RequestContextInterceptor(ScopeInterceptor):
    """Makes the current call known to logs, outgoing calls and error details."""

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        sent = incoming.context.invocation_metadata() or ()
        metadata = {str(key): value for key, value in sent if isinstance(value, str)}
        remaining: float | None = incoming.context.time_remaining()
        deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
        call = call_from_metadata(incoming.method.name, metadata, deadline)
        enter_call(call)
        incoming.context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
        # Not unbound: the context belongs to this call's task alone.
        structlog.contextvars.bind_contextvars(
            request_id=call.request_id, trace_id=call.trace_id, span_id=call.span_id, method=call.method
        )
        yield
