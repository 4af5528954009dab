"""One call: hand the program over, gather its output, end it at the deadline, kill it in every case."""

import asyncio
import contextlib
import socket
import time
from dataclasses import dataclass
from typing import Any

from interlock_sandbox import verdict
from interlock_sandbox.conversation import CallsExceeded, Conversation, Host
from interlock_sandbox.errors import ProtocolViolation
from interlock_sandbox.frames import PROGRAM_HEAD, FrameKind, FrameReader, FrameTooLarge, encode
from interlock_sandbox.levels import IsolationLevel
from interlock_sandbox.limits import Limits
from interlock_sandbox.outcome import Outcome, OutcomeKind, Usage
from interlock_sandbox.program import ToolProgram
from interlock_sandbox.spare import ExitReport, Spare
from interlock_sandbox.stream import Stream
from interlock_sandbox.verdict import Verdict

_READ_BYTES = 65536
_UNWATCHED_SECONDS = 0.002
_DEATH_SECONDS = 0.25
"""How long a process that closed its channel may take to be dead, before we say it did that on purpose."""
_EXIT_SECONDS = 2.0
"""How long a killed process may take to be gone; waited for only to tell what it used."""


@dataclass(frozen=True, slots=True)
class _Ending:
    """Why a call stopped, before it is judged: a frame, a kind with its detail, or the host's error."""

    kind: OutcomeKind
    detail: str = ""
    frame: tuple[FrameKind, bytes] | None = None
    error: Exception | None = None


class Call:
    """The use of one spare for one program; `run` once."""

    def __init__(
        self,
        spare: Spare,
        program: ToolProgram,
        limits: Limits,
        level: IsolationLevel,
        host: Host | None = None,
    ) -> None:
        self._spare = spare
        self._program = program
        self._limits = limits
        self._level = level
        self._watched: list[int] = []
        self._reader = FrameReader(
            result_bytes=limits.result_bytes, call_bytes=host.call_bytes if host is not None else None
        )
        self._conversation = (
            Conversation(spare.channel, host, on_room=self._go_on_reading, on_failure=self._host_failed)
            if host is not None
            else None
        )
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[_Ending] = self._loop.create_future()
        self._stdout = Stream(spare.stdout, limits.stdout_bytes, lambda: self._flooded("stdout"))
        self._stderr = Stream(spare.stderr, limits.stderr_bytes, lambda: self._flooded("stderr"))

    async def run(self, *, seconds: float) -> Outcome:
        """The outcome, after at most `seconds` and the time to kill; raises what its host raises.

        The sandbox has been sent its death when this returns or raises.
        """
        started = time.monotonic()
        late = _Ending(OutcomeKind.TIMEOUT, f"{seconds:.3g} s passed")
        deadline = self._loop.call_later(seconds, self._end, late)
        # Most calls end before a full pipe could hold them up; only longer ones pay for watching the streams.
        watching = self._loop.call_later(_UNWATCHED_SECONDS, self._watch_streams)
        try:
            ending = await self._hand_over_and_wait()
            if ending.error is not None:
                raise ending.error
            return await self._conclude(ending, wall_ms=(time.monotonic() - started) * 1000)
        finally:
            deadline.cancel()
            watching.cancel()
            self._unwatch()
            self._spare.kill()
            try:
                if self._conversation is not None:
                    await self._conversation.close()
            finally:
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
        if self._spare.cgroup is not None:
            self._spare.cgroup.bound(self._limits)
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
        if self._ended.done():  # what comes after the end is not even read
            self._loop.remove_reader(self._spare.channel.fileno())
            return
        try:
            data = self._spare.channel.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._spare.channel.fileno())
            self._end(_Ending(OutcomeKind.CRASHED))
            return
        self._take_frames(data)

    def _take_frames(self, data: bytes) -> None:
        try:
            frame = self._reader.feed(data)
            while frame is not None and frame[0] is FrameKind.CALL and self._conversation is not None:
                self._conversation.take(frame[1])
                if self._conversation.full:
                    self._loop.remove_reader(self._spare.channel.fileno())
                    return
                frame = self._reader.feed(b"")
        except ProtocolViolation as error:
            self._violated(error)
        else:
            if frame is not None:
                self._end(_Ending(OutcomeKind.COMPLETED, frame=frame))

    def _go_on_reading(self) -> None:
        if not self._ended.done():
            self._loop.add_reader(self._spare.channel.fileno(), self._on_frame_bytes)
            self._take_frames(b"")

    def _host_failed(self, error: Exception) -> None:
        if isinstance(error, ProtocolViolation):
            self._violated(error)
        else:
            self._end(_Ending(OutcomeKind.CANCELED, "its host gave up", error=error))

    def _violated(self, error: ProtocolViolation) -> None:
        too_much = isinstance(error, FrameTooLarge | CallsExceeded)
        self._end(_Ending(OutcomeKind.OUTPUT_LIMIT if too_much else OutcomeKind.BAD_RESULT, str(error)))

    def _flooded(self, stream: str) -> None:
        self._end(_Ending(OutcomeKind.OUTPUT_LIMIT, f"{stream} was flooded"))

    def _end(self, ending: _Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)

    async def _conclude(self, ending: _Ending, *, wall_ms: float) -> Outcome:
        if ending.kind is OutcomeKind.CRASHED:
            # Who closes the channel has most likely died: the zygote tells of what, unless we kill it first.
            await self._wait_until_gone(_DEATH_SECONDS)
        died_by_itself = self._spare.exited.done()
        cpu_seconds, peak = self._spare.cpu_seconds(), self._spare.peak_rss_bytes()
        self._spare.kill()
        for stream in (self._stdout, self._stderr):
            stream.read_available()
        if ending.frame is None:
            report = await self._wait_until_gone(_EXIT_SECONDS)
            if report is not None:
                cpu_seconds, peak = report.cpu_seconds, report.peak_rss_bytes
        cpu_used = max(0.0, cpu_seconds - self._spare.cpu_seconds_before)
        judged = await self._judge(ending, died_by_itself=died_by_itself, cpu_used=cpu_used)
        return Outcome(
            kind=judged.kind,
            level=self._level,
            started=True,
            result_json=judged.result_json,
            error=judged.error,
            stdout=self._stdout.captured(),
            stderr=self._stderr.captured(),
            usage=Usage(wall_ms=wall_ms, cpu_ms=cpu_used * 1000, peak_rss_bytes=peak),
        )

    async def _wait_until_gone(self, seconds: float) -> ExitReport | None:
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._spare.exited)
        except TimeoutError:
            return None

    async def _judge(self, ending: _Ending, *, died_by_itself: bool, cpu_used: float) -> Verdict:
        if ending.frame is not None:
            return await verdict.of_frame(*ending.frame)
        if ending.kind is not OutcomeKind.CRASHED:
            return verdict.failed(ending.kind, ending.detail)
        if not died_by_itself:
            return verdict.failed(OutcomeKind.CRASHED, "the tool closed its result channel")
        if self._spare.cgroup is not None and self._spare.cgroup.was_exhausted():
            return verdict.failed(OutcomeKind.MEMORY, "its whole tree used more memory than it may")
        report = self._spare.exited.result()
        return verdict.of_death(report, cpu_seconds=cpu_used, cpu_limit=self._limits.cpu_seconds)


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
