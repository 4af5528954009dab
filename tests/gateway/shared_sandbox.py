"""One real sandbox for all tests: proving a host's isolation anew for each would take most of their time."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from interlock_sandbox import (
    Host,
    IsolationLevel,
    Limits,
    Outcome,
    Sandbox,
    SandboxClosed,
    SandboxStatus,
    ToolProgram,
)


class SandboxHost:
    """A started sandbox, and the thread whose event loop it lives on."""

    def __init__(self, sandbox: Sandbox, loop: asyncio.AbstractEventLoop) -> None:
        self.sandbox = sandbox
        self.loop = loop


@contextmanager
def sandbox_host() -> Iterator[SandboxHost]:
    """Started; closed at the end of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sandbox", daemon=True)
    thread.start()
    sandbox = Sandbox(minimum=IsolationLevel.STANDARD, spares=2, max_concurrent=16)
    try:
        asyncio.run_coroutine_threadsafe(sandbox.start(), loop).result()
        yield SandboxHost(sandbox, loop)
        asyncio.run_coroutine_threadsafe(sandbox.close(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class SharedSandbox(Sandbox):
    """A gateway's view of the shared sandbox: it has its own calls, and nothing to start."""

    def __init__(self, host: SandboxHost) -> None:
        super().__init__()
        self._host = host
        self._mine: set[Future[Outcome]] = set()
        self._ended = 0
        self._closed = False

    async def start(self) -> None:
        """It was started before."""

    async def close(self) -> None:
        """End the calls that came this way."""
        self._closed = True
        while self._mine:
            for future in self._mine:
                future.cancel()
            await asyncio.sleep(0)

    def status(self) -> SandboxStatus:
        """With the calls that came this way."""
        return replace(self._host.sandbox.status(), running=len(self._mine), calls=self._ended)

    async def run(
        self,
        program: ToolProgram,
        *,
        limits: Limits | None = None,
        deadline: float | None = None,
        host: Host | None = None,
    ) -> Outcome:
        """As the shared one does."""
        if self._closed:
            raise SandboxClosed("the sandbox is closed")
        running = self._host.sandbox.run(program, limits=limits, deadline=deadline, host=_at_home(host))
        future = asyncio.run_coroutine_threadsafe(running, self._host.loop)
        self._mine.add(future)
        try:
            return await asyncio.wrap_future(future)
        finally:
            self._mine.discard(future)
            self._ended += 1


def _at_home(host: Host | None) -> Host | None:
    """Who answers on the loop that runs now, asked from the sandbox's own."""
    if host is None:
        return None
    home, answer = asyncio.get_running_loop(), host.answer

    async def ask(method: str, params: Mapping[str, Any]) -> bytes:
        async def answered() -> bytes:
            return await answer(method, params)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(answered(), home))

    return replace(host, answer=ask)
