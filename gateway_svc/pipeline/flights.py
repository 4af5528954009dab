"""Step 3, within this process: one flight a call, which goes on whoever stops waiting for it."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from gateway_svc.errors import UNKNOWN, draining, permit_mismatch, with_state
from gateway_svc.tool_call import Asked, CallKey
from interlock.common.cancellation import being_cancelled
from svc_kit.errors import DomainError

log = structlog.get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Flight(Generic[T]):
    task: "asyncio.Task[T]"
    argument_digest: str


class Flights(Generic[T]):
    """Calls under way in this process, and other work that must not end with the request that began it."""

    def __init__(self) -> None:
        self._flights: dict[CallKey, _Flight[T]] = {}
        self._others: set[asyncio.Task[Any]] = set()

    def check(self, asked: Asked) -> None:
        """Refuse a call whose id is under way with other arguments (PERMIT_MISMATCH)."""
        flight = self._flights.get(asked.key)
        if flight is not None and flight.argument_digest != asked.argument_digest:
            raise permit_mismatch("argument_digest", "the same call id is under way with other arguments")

    async def join(self, asked: Asked, begin: Callable[[], Coroutine[Any, Any, T]]) -> tuple[T, bool]:
        """What the flight of this call answers, and whether it was under way already; `check` it before.

        A caller that goes away ends its waiting, not the flight.
        """
        flight = self._flights.get(asked.key)
        joined = flight is not None
        if flight is None:
            task = asyncio.create_task(begin(), name=f"tool call {asked.call_id}")
            flight = self._flights[asked.key] = _Flight(task, asked.argument_digest)
            task.add_done_callback(lambda _: self._flights.pop(asked.key))
            self._keep(task)
        try:
            return await asyncio.shield(flight.task), joined
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise with_state(draining(), UNKNOWN) from None

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do some work to its end, even when the caller goes away."""
        await asyncio.shield(self.spawn(work))

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Do some work beside."""
        task = asyncio.create_task(work)
        self._keep(task)
        return task

    async def drain(self, seconds: float) -> bool:
        """Wait for everything under way, then end what is left; False when something was ended."""
        if self._others:
            await asyncio.wait(self._others, timeout=seconds)
        left = list(self._others)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        return not left

    def _keep(self, task: "asyncio.Task[Any]") -> None:
        self._others.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._others.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DomainError):
            # Whoever still waits gets it too; perhaps nobody does.
            log.error("work_failed", work=task.get_name(), exc_info=error)
