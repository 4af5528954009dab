"""Calls that are sent again until they are answered: what the worker's writes have in common."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from svc_kit.status import RemoteError, from_rpc_error

Answer = TypeVar("Answer")

_FIRST_WAIT_SECONDS = 0.05
_LAST_WAIT_SECONDS = 1.0
_AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


def is_away(problem: RemoteError) -> bool:
    """Whether the peer, and not the request, is the reason."""
    return problem.code in _AWAY


async def until_answered(
    call: Callable[[], Awaitable[Answer]], *, again: Callable[[RemoteError], bool] = is_away
) -> Answer:
    """The answer of an idempotent call, however long its peer is away; the caller bounds the whole.

    Raises RemoteError for every failure that `again` does not call passing.
    """
    wait = _FIRST_WAIT_SECONDS
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            problem = from_rpc_error(error)
            if not again(problem):
                raise problem from error
        await asyncio.sleep(max(wait, problem.retry_after or 0.0) * random.uniform(0.8, 1.2))  # noqa: S311
        wait = min(wait * 2, _LAST_WAIT_SECONDS)
