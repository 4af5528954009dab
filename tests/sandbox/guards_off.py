"""What the host itself does to hold a program, left out; for tests alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

from interlock_sandbox import OutcomeKind, call, stream, verdict
from interlock_sandbox.frames import HEADER, FrameKind, FrameReader
from interlock_sandbox.result_json import BadResult, check_and_rewrite
from interlock_sandbox.spare import Spare
from interlock_sandbox.verdict import Verdict
from tests.sandbox.attacks import Guard
from tests.sandbox.world import World

CARELESS_HOST = Path(__file__).with_name("careless_host.py")
_PATIENCE_SECONDS = 5
_RESULT_BYTES = 1 << 20


@contextmanager
def without(guards: frozenset[Guard]) -> Iterator[None]:
    """Calls that begin meanwhile do without READING, BOUNDS and KILL, as far as named."""
    with ExitStack() as stack:
        if Guard.READING in guards:
            stack.enter_context(patch.object(verdict, "of_frame", _believe))
            stack.enter_context(patch.object(FrameReader, "feed", _take_the_last_frame))
        if Guard.BOUNDS in guards:
            stack.enter_context(patch.object(stream, "FLOOD_BYTES", 1 << 60))
        if Guard.KILL in guards:
            stack.enter_context(patch.object(Spare, "kill", lambda _: None))
            stack.enter_context(patch.object(call, "_EXIT_SECONDS", 0.05))
        yield


async def _believe(kind: FrameKind, payload: bytes) -> Verdict:
    FrameKind(kind)
    return Verdict(kind=OutcomeKind.COMPLETED, result_json=json.dumps(json.loads(payload)).encode())


def _take_the_last_frame(self: FrameReader, data: bytes) -> tuple[int, bytes] | None:
    buffer = self._buffer
    buffer += data
    frame = None
    while buffer:
        if len(buffer) < HEADER.size:
            return None
        length, kind = HEADER.unpack_from(buffer)
        end = HEADER.size + length
        if len(buffer) < end:
            return None
        frame = kind, bytes(buffer[HEADER.size : end])
        del buffer[:end]
    return frame


def is_alive(pid: int) -> bool:
    """Whether it runs, rather than being gone or waiting to be reaped."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def end_at_last(pid: int) -> None:
    """Kill what nobody killed."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def careless_problems(sources: Sequence[str], arguments: Mapping[str, object], world: World) -> list[str]:
    """What becomes of a host that runs these programs in itself: without any PROCESS of their own."""
    request = json.dumps({"sources": sources, "arguments": arguments})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(CARELESS_HOST)],
            input=request.encode(),
            capture_output=True,
            timeout=_PATIENCE_SECONDS,
            close_fds=False,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ["the host hangs"]
    problems = world.breaches()
    lines = done.stdout.splitlines()
    if world.secret.encode() in done.stdout:
        problems.append("it learnt a secret")
    if done.returncode != 0 or not lines:
        return [*problems, f"the host died: {done.returncode} {done.stderr[-500:]!r}"]
    # What a tool prints comes first, and is taken for its result.
    line = lines[len(sources) - 1]
    if len(line) > _RESULT_BYTES:
        return [*problems, f"the host passed on {len(line)} bytes"]
    try:
        value = json.loads(check_and_rewrite(line))
    except BadResult as error:
        return [*problems, f"the host passed on what is unfit: {error}"]
    if isinstance(value, dict) and value.get("got"):
        problems.append(f"it got {value['got']}")
    return problems
