"""Reading a stream one item ahead of whoever works on it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()


async def one_ahead(items: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """The same items in the same order; while one is worked on the next is fetched, and no more than that.

    What fetching raises is raised in its turn, behind the items before it.
    """
    fetching = asyncio.ensure_future(_next(items))
    try:
        while (item := await fetching) is not _END:
            fetching = asyncio.ensure_future(_next(items))
            yield item
    finally:
        fetching.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await fetching
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _next(items: AsyncIterator[Item]) -> Item:
    return await anext(items, _END)
