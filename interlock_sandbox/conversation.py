"""What a running program may ask of its host, over the channel that also brings its result."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from interlock_sandbox.errors import ProtocolViolation
from interlock_sandbox.frames import ORDINAL, FrameKind, encode
from interlock_sandbox.result_json import BadResult, check_and_rewrite

MIB = 1024 * 1024
_PARSE_ASIDE_BYTES = 64 * 1024
"""Larger calls are parsed on a thread, so that one does not hold up the event loop."""

Answer = Callable[[str, Mapping[str, Any]], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """Who answers a program, and how much it may ask."""

    answer: Answer
    """Given method and params, a JSON object, the answer's JSON text. What it raises ends the program, and is
    raised to whoever runs it; it is cancelled when the program ends first."""
    open_calls: int = 32
    """Calls whose answers the program has not taken yet; while there are as many, no more are read."""
    calls: int = 10_000
    """Of one program; one more ends it, as do more bytes than these."""
    call_bytes: int = 1 * MIB
    """Length of one call's JSON text."""
    all_bytes: int = 64 * MIB
    """Length of all calls together: what the host is willing to parse."""


class CallsExceeded(ProtocolViolation):
    """The program asked too much."""


class Conversation:
    """The calls of one program. Nothing in a call says which one it is: they are counted here."""

    def __init__(
        self,
        channel: socket.socket,
        host: Host,
        *,
        on_room: Callable[[], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._channel = channel
        self._host = host
        self._on_room = on_room
        self._on_failure = on_failure
        self._writing = asyncio.Lock()
        self._open: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether no call may be taken until `on_room` is called."""
        return len(self._open) >= self._host.open_calls

    def take(self, payload: bytes) -> None:
        """Begin to answer one call; raises CallsExceeded."""
        host = self._host
        self._calls += 1
        self._bytes += len(payload)
        if self._calls > host.calls:
            raise CallsExceeded(f"more than {host.calls} calls were made")
        if self._bytes > host.all_bytes:
            raise CallsExceeded(f"the calls are more than {host.all_bytes} bytes together")
        task = asyncio.create_task(self._serve(self._calls, payload))
        self._open.add(task)
        task.add_done_callback(self._answered)

    async def close(self) -> None:
        """Give up what is not answered; returns when nothing of it runs any more."""
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)

    def _answered(self, task: asyncio.Task[None]) -> None:
        was_full = self.full
        self._open.discard(task)
        if was_full:
            self._on_room()

    async def _serve(self, ordinal: int, payload: bytes) -> None:
        try:
            method, params = await _parse(payload)
            answer = await self._host.answer(method, params)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the end of the program
            self._on_failure(error)
            return
        frame = encode(FrameKind.ANSWER, ORDINAL.pack(ordinal) + answer)
        async with self._writing:
            with contextlib.suppress(OSError):  # if it died, the channel says so next
                await asyncio.get_running_loop().sock_sendall(self._channel, frame)


async def _parse(payload: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        if len(payload) > _PARSE_ASIDE_BYTES:
            text = await asyncio.to_thread(check_and_rewrite, payload)
        else:
            text = check_and_rewrite(payload)
    except BadResult as error:
        raise ProtocolViolation(str(error).replace("the result", "a call", 1)) from None
    fields = json.loads(text)
    if (
        not isinstance(fields, dict)
        or set(fields) != {"method", "params"}
        or not isinstance(fields["method"], str)
        or not isinstance(fields["params"], dict)
    ):
        raise ProtocolViolation("a call is not an object of method and params")
    return fields["method"], fields["params"]
