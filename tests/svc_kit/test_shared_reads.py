"""Reads done together: who is answered by which read, and by what when it fails."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from svc_kit.shared_reads import SharedReads


class Shelf:
    """What is read; each read takes as long as the test holds it, and the next one fails by `failure`."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.asked: list[list[str]] = []
        self.failure: BaseException | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.begun = asyncio.Event()

    async def read(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(list(keys))
        found = {key: self.values[key] for key in keys if key in self.values}
        self.begun.set()
        await self.held.wait()
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return found


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


async def asking(reads: SharedReads[str, int], *keys: str) -> list[asyncio.Task[int | None]]:
    """Tasks that have asked."""
    tasks = [asyncio.create_task(reads.get(key)) for key in keys]
    await asyncio.sleep(0)
    return tasks


async def holding(shelf: Shelf, reads: SharedReads[str, int], key: str) -> asyncio.Task[int | None]:
    """A caller whose read is under way until the shelf is let go."""
    shelf.held.clear()
    (first,) = await asking(reads, key)
    await shelf.begun.wait()
    return first


async def test_what_is_asked_for_during_a_read_is_read_by_the_next_one_all_at_once(shelf: Shelf) -> None:
    reads = SharedReads(shelf.read)
    shelf.values = {"a": 1, "b": 2}
    first = await holding(shelf, reads, "a")
    rest = await asking(reads, "b", "c", "b", "a")
    shelf.held.set()
    assert await asyncio.gather(first, *rest) == [1, 2, None, 2, 1]
    assert shelf.asked == [["a"], ["b", "c", "a"]]


async def test_a_caller_is_never_answered_by_a_read_that_began_before_it_asked(shelf: Shelf) -> None:
    reads = SharedReads(shelf.read)
    shelf.values = {"a": 1}
    first = await holding(shelf, reads, "a")
    shelf.values = {"a": 2}
    (second,) = await asking(reads, "a")
    shelf.held.set()
    assert (await first, await second) == (1, 2)


async def test_one_read_takes_no_more_than_so_many(shelf: Shelf) -> None:
    reads = SharedReads(shelf.read, most=2)
    shelf.values = {str(n): n for n in range(5)}
    assert await asyncio.gather(*await asking(reads, *shelf.values)) == list(range(5))
    assert [len(keys) for keys in shelf.asked] == [2, 2, 1]


async def test_a_failed_read_is_told_to_its_own_callers_and_the_next_one_is_made(shelf: Shelf) -> None:
    reads = SharedReads(shelf.read)
    shelf.values = {"a": 1, "b": 2}
    first = await holding(shelf, reads, "a")
    (second,) = await asking(reads, "b")
    shelf.failure = ConnectionError("away")
    shelf.held.set()
    with pytest.raises(ConnectionError):
        await first
    assert await second == 2


async def test_a_caller_that_leaves_takes_the_answer_from_nobody(shelf: Shelf) -> None:
    reads = SharedReads(shelf.read)
    shelf.values = {"a": 1, "b": 2}
    leaving = await holding(shelf, reads, "a")
    gone, stays = await asking(reads, "b", "b")
    leaving.cancel()
    gone.cancel()
    shelf.held.set()
    assert await stays == 2
    assert await reads.get("a") == 1


async def test_a_read_that_is_cancelled_from_below_leaves_nobody_waiting_for_ever(shelf: Shelf) -> None:
    reads = SharedReads(shelf.read)
    first = await holding(shelf, reads, "a")
    (second,) = await asking(reads, "b")
    shelf.failure = asyncio.CancelledError()
    shelf.held.set()
    async with asyncio.timeout(5):
        await asyncio.wait([first, second])
    assert first.cancelled() and second.cancelled()
    shelf.values = {"a": 1}
    assert await reads.get("a") == 1
