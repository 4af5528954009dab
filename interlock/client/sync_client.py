"""The client for programs without an event loop."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, Self, TypeVar

from interlock.client.client import Client
from interlock.common.channel import ClientTls, TokenSource
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2

Result = TypeVar("Result")


class SyncClient:
    """A Client on a loop and thread of its own; safe to use from several threads. Use it as `with`."""

    def __init__(
        self, addresses: Mapping[str, str], token: TokenSource, *, tls: ClientTls | None = None
    ) -> None:
        self._client = Client(addresses, token, tls=tls)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="interlock-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread; again it does nothing."""
        if self._loop.is_closed():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, agent: str, input_json: str, **options: Any) -> task_pb2.Task:
        """As Client.submit, with the same options."""
        return self._run(self._client.submit(agent, input_json, **options))

    def retry(self, task_id: str, *, request_id: str = "", from_step: str = "") -> task_pb2.Task:
        """As Client.retry."""
        return self._run(self._client.retry(task_id, request_id=request_id, from_step=from_step))

    def get(self, task_id: str) -> task_pb2.Task:
        """As Client.get."""
        return self._run(self._client.get(task_id))

    def cancel(self, task_id: str) -> task_pb2.Task:
        """As Client.cancel."""
        return self._run(self._client.cancel(task_id))

    def pause(self, task_id: str) -> task_pb2.Task:
        """As Client.pause."""
        return self._run(self._client.pause(task_id))

    def resume(self, task_id: str) -> task_pb2.Task:
        """As Client.resume."""
        return self._run(self._client.resume(task_id))

    def answer(self, task_id: str, answer_json: str, *, input_id: str = "") -> task_pb2.Task:
        """As Client.answer."""
        return self._run(self._client.answer(task_id, answer_json, input_id=input_id))

    def wait(self, task_id: str, *, timeout: float | None = None) -> task_pb2.Task:
        """As Client.wait."""
        return self._run(self._client.wait(task_id, timeout=timeout))

    def watch(
        self, task_id: str, *, after_revision: int = 0, progress: bool = False
    ) -> Iterator[messages.WatchTaskResponse]:
        """As Client.watch."""
        watched = self._client.watch(task_id, after_revision=after_revision, progress=progress)
        yield from self._iterate(watched)

    def watch_tasks(
        self,
        filter: str = "",  # noqa: A002 - the contract's word
        *,
        cursor: str = "",
        from_now: bool = False,
    ) -> Iterator[messages.WatchTasksResponse]:
        """As Client.watch_tasks; does not end by itself, so leave the loop."""
        yield from self._iterate(self._client.watch_tasks(filter, cursor=cursor, from_now=from_now))

    def call(self, choose: Callable[[Client], Callable[..., Awaitable[Result]]], request: Any) -> Result:
        """Any unary call: `client.call(lambda c: c.agents.GetAgent, request)`. Raises InterlockError."""

        async def made() -> Result:
            return await self._client.call(choose(self._client), request)

        return self._run(made())

    def _iterate(self, updates: AsyncGenerator[Result, None]) -> Iterator[Result]:
        end = object()

        async def following() -> Any:
            return await anext(updates, end)

        async def drop() -> None:
            await updates.aclose()

        try:
            while (update := self._run(following())) is not end:
                yield update
        finally:
            self._run(drop())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
