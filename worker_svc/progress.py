"""What the attempts of this process say of themselves, sent together and no faster than anybody can read."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc
import structlog

from interlock.orchestrator.v1 import worker_service_pb2 as messages
from worker_svc.attempts import Attempt

_LOG = structlog.get_logger(__name__)
_EVERY_SECONDS = 0.25
_MAX_BYTES = 2048
_MAX_AT_ONCE = 1000

Send = Callable[[messages.EmitProgressRequest], Awaitable[None]]


@dataclass(slots=True)
class _Said:
    """What one attempt has said since it was last sent."""

    attempt: Attempt
    lines: list[str] = field(default_factory=list)
    done: float | None = None
    number: int = 0


class Progress:
    """Best effort: an orchestrator that is away is not waited for, and no agent ever is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._said: dict[tuple[str, int], _Said] = {}
        self._unsent: set[tuple[str, int]] = set()
        self._something = asyncio.Event()

    def say(self, attempt: Attempt, message: str, done: float | None) -> None:
        """Show this soon; the share that was said last stands until another is."""
        said = self._said.setdefault(attempt.key, _Said(attempt))
        said.lines = _newest([*said.lines, *message.replace("\0", "\ufffd").splitlines()])
        if done is not None and math.isfinite(done):
            said.done = min(1.0, max(0.0, done))
        self._unsent.add(attempt.key)
        self._something.set()

    def forget(self, attempt: Attempt) -> None:
        """The attempt is over."""
        self._said.pop(attempt.key, None)
        self._unsent.discard(attempt.key)

    async def run(self) -> None:
        """For ever; ends by cancellation."""
        while True:
            await self._something.wait()
            self._something.clear()
            request = self._taken()
            try:
                if request.progress:
                    await self._send(request)
            except grpc.aio.AioRpcError as error:
                _LOG.debug("progress_unsent", error=repr(error))
            await asyncio.sleep(_EVERY_SECONDS)

    def _taken(self) -> messages.EmitProgressRequest:
        request = messages.EmitProgressRequest()
        for key in list(self._unsent)[:_MAX_AT_ONCE]:
            self._unsent.discard(key)
            said = self._said[key]
            said.number += 1
            word = request.progress.add(
                attempt_token=said.attempt.token, number=said.number, message="\n".join(said.lines)
            )
            if said.done is not None:
                word.done = said.done
            said.lines = []
        if self._unsent:
            self._something.set()
        return request


def _newest(lines: list[str]) -> list[str]:
    """The last lines that fit one message; a line that is too long alone is cut."""
    kept: list[str] = []
    room = _MAX_BYTES
    for line in reversed(lines):
        data = line.encode(errors="replace")[:_MAX_BYTES]
        if kept and len(data) + 1 > room:
            break
        kept.append(data.decode(errors="ignore"))
        room -= len(data) + 1
    return kept[::-1]
