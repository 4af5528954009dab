"""An end for calls that name none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from svc_kit.call_context import current_call
from svc_kit.interceptors.handlers import Incoming, ScopeInterceptor


class DefaultDeadlineExpired(Exception):
    """The server's own limit for calls without a deadline ran out."""


class DeadlineInterceptor(ScopeInterceptor):
    """Gives calls with a single reply the server's default deadline if the client sent none.

    grpc itself ends a call whose client's deadline passes. Streamed replies may flow for as long as needed.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        call = current_call()
        if incoming.method.response_streaming or call is None or call.deadline is not None:
            yield
            return
        call.deadline = asyncio.get_running_loop().time() + self._seconds
        limit = asyncio.timeout_at(call.deadline)
        try:
            async with limit:
                yield
        except TimeoutError:
            # A TimeoutError of the handler's own is not ours to explain.
            if not limit.expired():
                raise
            raise DefaultDeadlineExpired(
                f"not done within the server's default deadline of {self._seconds:g} s; send a longer one"
            ) from None
