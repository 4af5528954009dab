"""Runs one program in a finished sandbox and tells the parent how it ended.

From the moment the program runs, everything here is in its hands: it may patch any module. Names that
reporting depends on are bound early so that an accident in the program does not silence it; nothing stronger
is claimed, and the parent trusts no frame.
"""

import asyncio
import gc
import inspect
import io
import json
import linecache
import os
import signal
import socket
import sys
import traceback
import types
from dataclasses import dataclass
from typing import NoReturn

from interlock_sandbox.frames import HEADER, PROGRAM_HEAD, FrameKind, encode
from interlock_sandbox.inside import privileges

_MESSAGE_BYTES = 4 * 1024
_TRACEBACK_BYTES = 16 * 1024
_MODULE = "tool"

_write, _read, _pause = os.write, os.read, signal.pause
_encode_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_OUT_OF_MEMORY = b'{"type":"MemoryError","message":"the memory limit was reached","traceback":""}'

_TOUCHED_OBJECTS = 600
"""About 256 KiB, what a small tool uses."""

_REHEARSAL = """
import json
def run(text, numbers):
    class Thing: pass
    try:
        raise ValueError("never seen")
    except ValueError as error:
        message = str(error)
    return {"text": text.upper(), "sum": sum(numbers), "json": json.loads("[1, 2.5]"), "message": message}
"""


def serve_one_program(channel: int, baseline: privileges.Baseline, *, bounded: bool) -> NoReturn:
    """Say READY, take one program, run it (within its limits if `bounded`), report, and wait to be killed."""
    _open_streams()
    _rehearse(baseline)
    _send(channel, FrameKind.READY, b"")
    _serve(channel, baseline, bounded=bounded)
    while True:
        _pause()


def _serve(channel: int, baseline: privileges.Baseline, *, bounded: bool) -> None:
    request = _receive_program(channel)
    kind, payload = _run(request, baseline, bounded=bounded)
    _flush()
    _send(channel, kind, payload)


def _open_streams() -> None:
    """Text streams that pass lines on at once, so that a killed tool's last words are not lost."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        raw = open(number, "wb", closefd=False)  # noqa: SIM115  open for good
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _rehearse(baseline: privileges.Baseline) -> None:
    """Serve a program of our own, so that the pages a call will write to are ours before anybody waits.

    A page shared with the zygote costs some microseconds at its first write.
    """
    ours, theirs = socket.socketpair()
    texts = (_REHEARSAL.encode(), b"run", b"rehearsal.py")
    head = PROGRAM_HEAD.pack(0, 0, 0, 1 << 20, 0, 0, *map(len, texts))
    program = encode(FrameKind.RUN, b"".join((head, *texts, b'{"text": "a", "numbers": [1, 2]}')))
    with ours, theirs:
        for _ in range(2):
            ours.sendall(program)
            _serve(theirs.fileno(), baseline, bounded=False)
            ours.recv(4096)
    spread = [bytes(400) for _ in range(_TOUCHED_OBJECTS)]
    del spread
    linecache.clearcache()
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    source: str
    entrypoint: str
    filename: str
    arguments: bytes
    result_bytes: int
    limits: privileges.CallLimits


def _receive_program(channel: int) -> _Request:
    length, _ = HEADER.unpack(_read_exactly(channel, HEADER.size))
    payload = io.BytesIO(_read_exactly(channel, length))
    head = PROGRAM_HEAD.unpack(payload.read(PROGRAM_HEAD.size))
    cpu_seconds, memory_bytes, disk_bytes, result_bytes, processes, open_files, *lengths = head
    source, entrypoint, filename = (payload.read(count).decode() for count in lengths)
    limits = privileges.CallLimits(
        cpu_seconds=cpu_seconds,
        memory_bytes=memory_bytes,
        processes=processes,
        open_files=open_files,
        disk_bytes=disk_bytes,
    )
    return _Request(
        source=source,
        entrypoint=entrypoint,
        filename=filename,
        arguments=payload.read(),
        result_bytes=result_bytes,
        limits=limits,
    )


def _read_exactly(channel: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = _read(channel, min(count - len(data), 1 << 20))
        if not chunk:
            os._exit(0)  # the parent is gone, or has no use for this spare
        data += chunk
    return bytes(data)


def _run(request: _Request, baseline: privileges.Baseline, *, bounded: bool) -> tuple[FrameKind, bytes]:
    try:
        baseline.bound(request.limits if bounded else None)
        kind, payload = _execute(request.source, request.entrypoint, request.arguments, request.filename)
    except MemoryError:
        kind, payload = FrameKind.TOOL_ERROR, _OUT_OF_MEMORY
        privileges.use_reporting_headroom()
    if kind is FrameKind.RESULT and len(payload) > request.result_bytes:
        text = f"the result is {len(payload)} bytes of JSON; the limit is {request.result_bytes}"
        return FrameKind.RESULT_TOO_LARGE, _failure("ResultTooLarge", text)
    return kind, payload


def _execute(source: str, entrypoint: str, arguments: bytes, filename: str) -> tuple[FrameKind, bytes]:
    """The result's JSON, or what the program raised; only MemoryError comes out as an exception."""
    try:
        value = _call(source, entrypoint, json.loads(arguments), filename)
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001  whatever a tool raises is its answer
        return FrameKind.TOOL_ERROR, _describe(error, filename)
    try:
        return FrameKind.RESULT, _encode_json(value).encode()
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001  objects of the tool's own may raise anything
        text = f"the return value is not JSON: {type(error).__name__}: {error}"
        return FrameKind.BAD_RESULT, _failure("BadResult", text)


def _call(source: str, entrypoint: str, arguments: dict[str, object], filename: str) -> object:
    # Tracebacks can then show the tool's own lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(_MODULE)
    module.__file__ = filename
    sys.modules[_MODULE] = module
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  this is the purpose
    function = module.__dict__.get(entrypoint)
    if not callable(function):
        raise LookupError(f"{filename} defines no function {entrypoint!r}")  # noqa: TRY004  it is missing
    value = function(**arguments)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _describe(error: BaseException, filename: str) -> bytes:
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001  the tool's own class may raise anything
        text = f"(its message could not be read: {type(broken).__name__})"
    try:
        trace = _own_frames(error, filename)
    except Exception as broken:  # noqa: BLE001  likewise
        trace = f"(its traceback could not be made: {type(broken).__name__})"
    return _failure(type(error).__name__, text, trace)


def _own_frames(error: BaseException, filename: str) -> str:
    """The traceback without our own frames, of it and of the errors that led to it."""
    told = traceback.TracebackException.from_exception(error, limit=-50, compact=True)
    todo: list[traceback.TracebackException | None] = [told]
    while todo:
        part = todo.pop()
        if part is not None:
            own = [frame for frame in part.stack if frame.filename == filename]
            part.stack = traceback.StackSummary.from_list(own)
            todo += [part.__cause__, part.__context__]
    return "".join(told.format())


def _failure(kind: str, message: str, trace: str = "") -> bytes:
    fields = {
        "type": _shorten(kind, 200),
        "message": _shorten(message, _MESSAGE_BYTES),
        "traceback": _shorten(trace, _TRACEBACK_BYTES),
    }
    return _encode_json(fields).encode()


def _shorten(text: str, limit: int) -> str:
    """At most `limit` bytes once encoded; from the end, where a traceback says what happened."""
    encoded = text.encode("utf-8", "backslashreplace").replace(b"\0", b"\\0")
    if len(encoded) > limit:
        encoded = b"..." + encoded[3 - limit :]
    return encoded.decode("utf-8", "replace")


def _flush() -> None:
    for stream in {sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__}:
        try:
            if stream is not None:
                stream.flush()
        except BaseException:  # noqa: BLE001, S112  the tool replaced or closed it: its own loss
            continue


def _send(channel: int, kind: FrameKind, payload: bytes) -> None:
    data = memoryview(encode(kind, payload))
    while data:
        data = data[_write(channel, data) :]
