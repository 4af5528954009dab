"""Group commit: callers that wait at the same time share one transaction.

While a batch commits, the next one gathers; when nothing commits, a row goes out on the next turn of the
event loop, so an idle system pays no delay.
"""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

from interlock.common.cancellation import being_cancelled
from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import DomainError, ResourceExhausted, Unavailable
from svc_kit.fair_queue import FairQueue, Waiting

Row = TypeVar("Row")
Result = TypeVar("Result")

MIB = 1024 * 1024

# Told of every commit that was tried: rows in it, seconds it took.
Observer = Callable[[int, float], None]


class GroupCommit(Generic[Row, Result]):
    """Gathers rows of many callers and hands them to `commit` a batch at a time.

    `commit` writes all rows in one transaction and returns one result per row, in the order of the rows. An
    expected conflict is a `DomainError` *in* that list and fails its own caller only. `commit` must be
    idempotent per row: a batch whose COMMIT was ambiguous, or which one row spoiled, is run again.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Row]], Awaitable[Sequence[Result | DomainError]]],
        *,
        size_of: Callable[[Row], int],
        tenant_of: Callable[[Row], str],
        max_rows: int = 256,
        max_bytes: int = MIB,
        max_queued_rows: int = 4096,
        max_queued_bytes: int = 64 * MIB,
        retry_after: float = 1.0,
        observe: Observer | None = None,
    ) -> None:
        if max_rows < 1 or max_bytes < 1 or max_queued_rows < 1 or max_queued_bytes < 1:
            raise ValueError("group commit: every bound must be at least 1")
        self._commit = commit
        self._size_of = size_of
        self._tenant_of = tenant_of
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._queue: FairQueue[Row, Result] = FairQueue(max_queued_rows, max_queued_bytes)
        self._retry_after = retry_after
        self._observe = observe
        self._runner: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def queued(self) -> int:
        """Rows that wait for a batch; rows being committed are not counted."""
        return self._queue.rows

    async def submit(self, row: Row) -> Result:
        """The row's own result, once it is durable.

        A caller who is cancelled while waiting leaves the batch whole: its row is dropped if no batch holds
        it yet, and committed otherwise.

        Raises ResourceExhausted OVERLOADED when the queue is full, Unavailable DRAINING after close(),
        Unavailable when the database could not be reached twice (the row may or may not be stored), and
        whatever `commit` returned or raised for this row.
        """
        if self._closing:
            raise Unavailable(
                ErrorReason.ERROR_REASON_DRAINING,
                "the service is shutting down",
                retry_after=self._retry_after,
            )
        waiting: Waiting[Row, Result] = Waiting(
            row=row,
            tenant=self._tenant_of(row),
            size=self._size_of(row),
            reply=asyncio.get_running_loop().create_future(),
        )
        for refused in self._queue.put(waiting):
            _fail([refused], self._overloaded())
        self._ensure_running()
        return await waiting.reply

    async def close(self) -> None:
        """Refuse new rows and wait until every row already accepted has its answer."""
        self._closing = True
        if self._runner is not None:
            await asyncio.shield(self._runner)

    def _overloaded(self) -> ResourceExhausted:
        return ResourceExhausted(
            ErrorReason.ERROR_REASON_OVERLOADED,
            "more writes wait than the service accepts; try again shortly",
            retry_after=self._retry_after,
        )

    def _ensure_running(self) -> None:
        if self._runner is None or self._runner.done():
            # An empty context: the batch belongs to no single caller, so it must not log or trace as the
            # first.
            self._runner = asyncio.get_running_loop().create_task(
                self._run(), name="group-commit", context=contextvars.Context()
            )

    async def _run(self) -> None:
        while batch := self._queue.take(self._max_rows, self._max_bytes):
            try:
                await self._settle(batch)
            except BaseException:
                # Only our own cancellation (the loop is going down) or a broken interpreter comes here.
                _fail([*batch, *self._queue.take_all()], _unknown_outcome())
                raise

    async def _settle(self, batch: list[Waiting[Row, Result]]) -> None:
        """Give every caller of the batch its answer, splitting the batch until only the guilty rows fail."""
        try:
            results = await self._attempt(batch)
        except Unavailable as error:
            # Not the rows' fault: splitting would only multiply the waiting for a database that is away.
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 (it is handed to the callers it belongs to)
            if len(batch) == 1:
                _fail(batch, error)
                return
            middle = len(batch) // 2
            await self._settle(batch[:middle])
            await self._settle(batch[middle:])
        else:
            _answer(batch, results)

    async def _attempt(self, batch: list[Waiting[Row, Result]]) -> Sequence[Result | DomainError]:
        """Commit the batch, once more if the database went away under it (COMMIT may then have happened)."""
        try:
            return await self._commit_once(batch)
        except Unavailable:
            return await self._commit_once(batch)

    async def _commit_once(self, batch: list[Waiting[Row, Result]]) -> Sequence[Result | DomainError]:
        started = time.perf_counter()
        try:
            return await self._commit([waiting.row for waiting in batch])
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            # Something below was cancelled (a closed channel, a closed pool), not this batch.
            raise _unknown_outcome() from error
        finally:
            if self._observe is not None:
                self._observe(len(batch), time.perf_counter() - started)


def in_row_order(tenants: Sequence[str], replies: Iterable[tuple[int, str, Result]]) -> list[Result]:
    """Replies (ordinal from 1, tenant, result) of one shared statement, in the order of its rows.

    Ordinal and tenant must both match, so that a wrong join can never hand one tenant another's result; a
    missing, doubled or foreign reply raises RuntimeError.
    """
    found: dict[int, Result] = {}
    for ordinal, tenant, result in replies:
        if not 1 <= ordinal <= len(tenants) or ordinal in found or tenants[ordinal - 1] != tenant:
            raise RuntimeError(f"shared statement: reply {ordinal} does not belong to the row at that place")
        found[ordinal] = result
    if len(found) != len(tenants):
        raise RuntimeError(f"shared statement: {len(found)} replies for {len(tenants)} rows")
    return [found[ordinal] for ordinal in range(1, len(tenants) + 1)]


def _answer(batch: Sequence[Waiting[Row, Result]], results: Sequence[Result | DomainError]) -> None:
    if len(results) != len(batch):
        _fail(
            batch,
            RuntimeError(f"group commit: {len(results)} results for {len(batch)} rows"),
        )
        return
    for waiting, result in zip(batch, results, strict=True):
        if isinstance(result, DomainError):
            _fail([waiting], result)
        elif not waiting.reply.done():
            waiting.reply.set_result(result)


def _fail(batch: Iterable[Waiting[Row, Result]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.reply.done():
            waiting.reply.set_exception(error)
            # Marks it as seen: a caller cancelled in this very moment would else leave a log line behind.
            waiting.reply.exception()


def _unknown_outcome() -> Unavailable:
    return Unavailable(
        ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE,
        "the write was interrupted; try again",
        retry_after=1.0,
    )
