"""Work of calls that can be ended from outside before it is done."""

import asyncio
import uuid
from collections.abc import Collection, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway_svc.tool_call import Asked, CallKey
from interlock.common.cancellation import being_cancelled

T = TypeVar("T")


class CallCanceledError(Exception):
    """Somebody wanted the call to end before it was done."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(slots=True)
class _Running:
    asked: Asked
    work: "asyncio.Future[Any]"
    connections: frozenset[str]
    why: str = ""  # it was ended from outside

    def cancel(self, why: str) -> None:
        """End it; the first reason stands."""
        self.why = self.why or why
        self.work.cancel()


class Cancelable:
    """Everything of this process that runs for a call."""

    def __init__(self) -> None:
        self._running: dict[CallKey, _Running] = {}

    @property
    def busy(self) -> bool:
        """Whether anything runs."""
        return bool(self._running)

    def tasks(self) -> set[uuid.UUID]:
        """The tasks that anything runs for."""
        return {running.asked.task_id for running in self._running.values()}

    def cancel(self, key: CallKey, why: str) -> None:
        """End the work of one call, with everything that it has started, if it runs here."""
        if key in self._running:
            self._running[key].cancel(why)

    def cancel_task(self, tenant: str, task_id: uuid.UUID) -> None:
        """End all work for a task that is over or was asked to end; nobody waits for the results."""
        for running in list(self._running.values()):
            if (running.asked.tenant, running.asked.task_id) == (tenant, task_id):
                running.cancel("its task is over or was asked to end")

    def calls(self) -> list[tuple[Asked, frozenset[str]]]:
        """What runs, each with the ids of the connections that it may use."""
        return [(running.asked, running.connections) for running in self._running.values()]

    async def run(
        self, asked: Asked, work: Coroutine[Any, Any, T], *, connections: Collection[str] = ()
    ) -> T:
        """What the work returns or raises; raises CallCanceledError when it was ended from outside."""
        future = asyncio.ensure_future(work)
        running = self._running[asked.key] = _Running(asked, future, frozenset(connections))
        try:
            return await future
        except asyncio.CancelledError:
            if running.why and not being_cancelled():
                raise CallCanceledError(running.why) from None
            raise
        finally:
            del self._running[asked.key]
