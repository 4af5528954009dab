"""One call: hand the program over, gather its output, end it at the deadline, kill it in every case."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interlock_sandbox.errors import ProtocolViolation
from interlock_sandbox.frames import PROGRAM_HEAD, FrameKind, FrameReader, FrameTooLarge, encode
from interlock_sandbox.levels import IsolationLevel
from interlock_sandbox.limits import Limits
from interlock_sandbox.outcome import Captured, Outcome, OutcomeKind, ToolFailure, Usage
from interlock_sandbox.program import ToolProgram
from interlock_sandbox.result_json import BadResult, check_and_rewrite
from interlock_sandbox.spare import ExitReport, Spare

FLOOD_BYTES = 4 * 1024 * 1024
"""What a tool may write to a stream beyond its limit, dropped, before it is ended."""

_READ_BYTES = 65536
_UNWATCHED_SECONDS = 0.002
_EXIT_REPORT_SECONDS = 2.0
_PARSE_ASIDE_BYTES = 64 * 1024
"""Larger results are parsed on a thread, so that one does not hold up the event loop."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """Why a call stopped, before anything is judged."""

    kind: OutcomeKind
    detail: str = ""
    frame: tuple[FrameKind, bytes] | None = None


class _Stream:
    """Collects one pipe up to its limit."""

    def __init__(self, descriptor: int, limit: int, on_flood: Callable[[], None]) -> None:
        self.descriptor = descriptor
        self._limit = limit
        self._on_flood = on_flood
        self._kept = bytearray()
        self._seen = 0

    def read_available(self) -> None:
        for _ in range(16):  # then let others run
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self.descriptor)
                return
            self._seen += len(data)
            self._kept += data[: max(0, self._limit - len(self._kept))]
            if self._seen > self._limit + FLOOD_BYTES:
                self._on_flood()
                return

    def captured(self) -> Captured:
        return Captured(data=bytes(self._kept), truncated=self._seen > len(self._kept))


class Call:
    """The use of one spare for one program; `run` once."""

    def __init__(self, spare: Spare, program: ToolProgram, limits: Limits, level: IsolationLevel) -> None:
        self._spare = spare
        self._program = program
        self._limits = limits
        self._level = level
        self._watched: list[int] = []
        self._reader = FrameReader(result_bytes=limits.result_bytes)
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[_Ending] = self._loop.create_future()
        self._stdout = _Stream(spare.stdout, limits.stdout_bytes, lambda: self._flooded("stdout"))
        self._stderr = _Stream(spare.stderr, limits.stderr_bytes, lambda: self._flooded("stderr"))

    async def run(self, *, seconds: float) -> Outcome:
        """The outcome, after at most `seconds` and the time to kill.

        The sandbox has been sent its death when this returns or raises.
        """
        started = time.monotonic()
        timer = self._loop.call_later(
            seconds, self._end, _Ending(OutcomeKind.TIMEOUT, f"{seconds:.3g} s passed")
        )
        # Most calls end before a full pipe could hold them up; only longer ones pay for watching the streams.
        watching = self._loop.call_later(_UNWATCHED_SECONDS, self._watch_streams)
        try:
            ending = await self._hand_over_and_wait()
            wall_ms = (time.monotonic() - started) * 1000
            return await self._conclude(ending, wall_ms)
        finally:
            timer.cancel()
            watching.cancel()
            self._unwatch()
            self._spare.close()

    def cancel(self) -> None:
        """End the call because the sandbox closes."""
        self._end(_Ending(OutcomeKind.CANCELED, "the sandbox was closed"))

    def _watch_streams(self) -> None:
        for stream in (self._stdout, self._stderr):
            self._loop.add_reader(stream.descriptor, stream.read_available)
            self._watched.append(stream.descriptor)

    def _watch_channel(self) -> None:
        self._loop.add_reader(self._spare.channel.fileno(), self._on_frame_bytes)
        self._watched.append(self._spare.channel.fileno())

    def _unwatch(self) -> None:
        for descriptor in self._watched:
            self._loop.remove_reader(descriptor)

    async def _hand_over_and_wait(self) -> _Ending:
        data = encode_program(self._program, self._limits)
        channel = self._spare.channel
        rest = memoryview(data)[_send_some(channel, data) :]
        if rest:
            await self._send_rest(channel, rest)
        if not self._ended.done():
            self._watch_channel()
        return await self._ended

    async def _send_rest(self, channel: socket.socket, rest: memoryview) -> None:
        sending = asyncio.ensure_future(self._loop.sock_sendall(channel, rest))
        try:
            both: set[asyncio.Future[Any]] = {sending, self._ended}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):  # if it died, the channel says so next
                await sending

    def _on_frame_bytes(self) -> None:
        try:
            data = self._spare.channel.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(_Ending(OutcomeKind.CRASHED))
            return
        try:
            frame = self._reader.feed(data)
        except FrameTooLarge as error:
            self._end(_Ending(OutcomeKind.OUTPUT_LIMIT, str(error)))
        except ProtocolViolation as error:
            self._end(_Ending(OutcomeKind.BAD_RESULT, str(error)))
        else:
            if frame is not None:
                self._end(_Ending(OutcomeKind.COMPLETED, frame=frame))

    def _flooded(self, stream: str) -> None:
        self._end(_Ending(OutcomeKind.OUTPUT_LIMIT, f"{stream} was flooded"))

    def _end(self, ending: _Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)

    async def _conclude(self, ending: _Ending, wall_ms: float) -> Outcome:
        cpu_seconds = self._spare.cpu_seconds()
        peak = self._spare.peak_rss_bytes()
        self._spare.kill()
        for stream in (self._stdout, self._stderr):
            stream.read_available()
        kind, failure, result = ending.kind, None, None
        if ending.frame is not None:
            kind, failure, result = await _judge(*ending.frame)
        else:
            report = await self._exit_report()
            if report is not None:
                cpu_seconds, peak = report.cpu_seconds, report.peak_rss_bytes
            if kind is OutcomeKind.CRASHED:
                kind, failure = self._explain_death(report)
            else:
                failure = ToolFailure(type=kind.value, message=ending.detail)
        used = max(0.0, cpu_seconds - self._spare.cpu_seconds_before)
        return Outcome(
            kind=kind,
            level=self._level,
            started=True,
            result_json=result,
            error=failure,
            stdout=self._stdout.captured(),
            stderr=self._stderr.captured(),
            usage=Usage(wall_ms=wall_ms, cpu_ms=used * 1000, peak_rss_bytes=peak),
        )

    async def _exit_report(self) -> ExitReport | None:
        try:
            return await asyncio.wait_for(asyncio.shield(self._spare.exited), _EXIT_REPORT_SECONDS)
        except TimeoutError:
            return None

    def _explain_death(self, report: ExitReport | None) -> tuple[OutcomeKind, ToolFailure]:
        """Why the process ended before it reported."""
        if report is None:
            return _failed(OutcomeKind.CRASHED, "the zygote died")
        if os.WIFEXITED(report.status):
            code = os.WEXITSTATUS(report.status)
            return _failed(OutcomeKind.CRASHED, f"the process exited with code {code} before it returned")
        number = os.WTERMSIG(report.status)
        used = report.cpu_seconds - self._spare.cpu_seconds_before
        if number in (signal.SIGKILL, signal.SIGXCPU) and used >= 0.9 * self._limits.cpu_seconds:
            return _failed(OutcomeKind.CPU, f"{used:.3g} s of processor time were used")
        if number == signal.SIGKILL:
            return _failed(OutcomeKind.KILLED, "the process was killed from outside")
        return _failed(OutcomeKind.CRASHED, f"the process died of {signal.Signals(number).name}")


def _send_some(channel: socket.socket, data: bytes) -> int:
    """Send what fits at once; if nobody is left to read, all of it counts, and the channel tells."""
    try:
        return channel.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def encode_program(program: ToolProgram, limits: Limits) -> bytes:
    """The RUN frame."""
    texts = [text.encode() for text in (program.source, program.entrypoint, program.filename)]
    head = PROGRAM_HEAD.pack(
        limits.cpu_seconds,
        limits.memory_bytes,
        limits.disk_bytes,
        limits.result_bytes,
        limits.processes,
        limits.open_files,
        *map(len, texts),
    )
    return encode(FrameKind.RUN, b"".join((head, *texts, program.arguments_json)))


async def _judge(kind: FrameKind, payload: bytes) -> tuple[OutcomeKind, ToolFailure | None, bytes | None]:
    """What a frame means; the tool may have forged it, which gains it nothing it could not return."""
    if kind is FrameKind.RESULT:
        try:
            if len(payload) > _PARSE_ASIDE_BYTES:
                return OutcomeKind.COMPLETED, None, await asyncio.to_thread(check_and_rewrite, payload)
            return OutcomeKind.COMPLETED, None, check_and_rewrite(payload)
        except BadResult as error:
            return *_failed(OutcomeKind.BAD_RESULT, str(error)), None
    failure = _read_failure(payload)
    if failure is None:
        return *_failed(OutcomeKind.BAD_RESULT, "the channel was misused"), None
    match kind:
        case FrameKind.TOOL_ERROR:
            ended = OutcomeKind.MEMORY if failure.type == "MemoryError" else OutcomeKind.TOOL_ERROR
        case FrameKind.RESULT_TOO_LARGE:
            ended = OutcomeKind.OUTPUT_LIMIT
        case FrameKind.BAD_RESULT:
            ended = OutcomeKind.BAD_RESULT
        case _:
            return *_failed(OutcomeKind.BAD_RESULT, "the channel was misused"), None
    return ended, failure, None


def _read_failure(payload: bytes) -> ToolFailure | None:
    try:
        fields = json.loads(check_and_rewrite(payload))
    except BadResult:
        return None
    if not isinstance(fields, dict) or set(fields) != {"type", "message", "traceback"}:
        return None
    if not all(isinstance(value, str) for value in fields.values()):
        return None
    return ToolFailure(
        type=fields["type"][:200], message=fields["message"][:4096], traceback=fields["traceback"][:16384]
    )


def _failed(kind: OutcomeKind, message: str) -> tuple[OutcomeKind, ToolFailure]:
    return kind, ToolFailure(type=kind.value, message=message)
