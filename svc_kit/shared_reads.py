"""Reads that many callers want at once, done together: a thousand watchers that come back."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class SharedReads(Generic[Key, Value]):
    """Gathers keys while a read is under way and reads them all by the next one, at most `most` at a time.

    A caller is answered by a read that began after it asked, so it misses nothing that was committed before.
    `read` leaves out what is not there. What it raises, every caller of that read is told.
    """

    def __init__(
        self, read: Callable[[Sequence[Key]], Awaitable[Mapping[Key, Value]]], *, most: int = 500
    ) -> None:
        self._read = read
        self._most = most
        self._waiting: dict[Key, asyncio.Future[Value | None]] = {}
        self._runner: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Value | None:
        """The value, or None where there is none."""
        loop = asyncio.get_running_loop()
        answer = self._waiting.setdefault(key, loop.create_future())
        if self._runner is None or self._runner.done():
            # An empty context: the read belongs to no single caller.
            self._runner = loop.create_task(self._run(), context=contextvars.Context())
        # Others may wait for the same answer.
        return await asyncio.shield(answer)

    async def _run(self) -> None:
        while self._waiting:
            keys = list(self._waiting)[: self._most]
            answers = [self._waiting.pop(key) for key in keys]
            try:
                found = await self._read(keys)
            except BaseException as error:
                if not isinstance(error, Exception):
                    # This was the last read: whoever waits for the next one waits in vain.
                    answers += self._waiting.values()
                    self._waiting.clear()
                for answer in answers:
                    _fail(answer, error)
                if not isinstance(error, Exception):
                    raise
            else:
                for key, answer in zip(keys, answers, strict=True):
                    answer.set_result(found.get(key))


def _fail(answer: "asyncio.Future[Value | None]", error: BaseException) -> None:
    if isinstance(error, Exception):
        answer.set_exception(error)
        # Marks it as seen: its callers may all have gone.
        answer.exception()
    else:
        answer.cancel()
