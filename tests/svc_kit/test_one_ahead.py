"""A stream is read one item ahead, in order, and its errors come in their turn."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from svc_kit.one_ahead import one_ahead


async def test_the_next_item_is_fetched_while_one_is_worked_on_and_no_more() -> None:
    fetched = []

    async def items() -> AsyncIterator[int]:
        for number in range(5):
            fetched.append(number)
            yield number

    seen = []
    async for item in one_ahead(items()):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append((item, list(fetched)))
    assert [item for item, _ in seen] == [0, 1, 2, 3, 4]
    assert [known[-1] for _, known in seen] == [1, 2, 3, 4, 4]


async def test_an_error_comes_behind_the_items_before_it() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise ValueError("bad")

    stream = one_ahead(items())
    assert await anext(stream) == 1
    with pytest.raises(ValueError, match="bad"):
        await anext(stream)


async def test_who_leaves_early_leaves_nothing_running() -> None:
    ended = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    stream = one_ahead(items())
    assert await anext(stream) == 1
    await stream.aclose()
    assert ended.is_set()
