"""The framing on the channel between the parent and one sandbox.

A frame is its payload's length (4 bytes, network order), its kind (1 byte) and the payload. The sandbox's end
belongs to the untrusted tool once it runs, so the parent believes nothing but the length it allows.
"""

import struct
from enum import IntEnum

from interlock_sandbox.errors import ProtocolViolation

HEADER = struct.Struct("!IB")


class FrameKind(IntEnum):
    """What a frame says."""

    READY = 1
    """From a new sandbox: it waits for a program."""
    SETUP_FAILED = 2
    """From a new sandbox: a layer could not be applied. Payload: JSON (layer, step, errno)."""
    RUN = 3
    """To a sandbox: the program. Payload: see `PROGRAM_HEAD`."""
    RESULT = 4
    """Payload: the result's JSON text."""
    TOOL_ERROR = 5
    """Payload: JSON (type, message, traceback)."""
    BAD_RESULT = 6
    """The return value is no JSON. Payload: as TOOL_ERROR."""
    RESULT_TOO_LARGE = 7
    """Payload: as TOOL_ERROR."""
    CALL = 8
    """From a program that has a host: the n-th asks for something. Payload: JSON (method, params)."""
    ANSWER = 9
    """To a program that has a host. Payload: `ORDINAL` of the call, then JSON text."""


ORDINAL = struct.Struct("!I")
"""1, 2, 3… in the order in which the calls arrived; a program cannot choose it."""

PROGRAM_HEAD = struct.Struct("!dQQQIIIHH")
"""What a RUN payload begins with: cpu_seconds, memory_bytes, disk_bytes, result_bytes, processes, open_files,
and the lengths of source, entrypoint and filename, which follow in this order; the rest are the arguments."""

ERROR_BYTES = 128 * 1024
"""Bound on every payload from a sandbox but a result's."""


_KINDS = {kind.value: kind for kind in FrameKind}


def encode(kind: FrameKind, payload: bytes) -> bytes:
    """A whole frame."""
    return HEADER.pack(len(payload), kind) + payload


class FrameReader:
    """Cuts frames out of the bytes that arrive; keeps no more than a frame and one read may hold.

    CALL frames are accepted only with a `call_bytes`.
    """

    def __init__(self, *, result_bytes: int, call_bytes: int | None = None) -> None:
        self._allowed = {FrameKind.RESULT: result_bytes}
        self._unknown = {FrameKind.ANSWER}
        if call_bytes is None:
            self._unknown.add(FrameKind.CALL)
        else:
            self._allowed[FrameKind.CALL] = call_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[FrameKind, bytes] | None:
        """Add bytes; the next frame once it is whole. What came after it is kept: feed b"" for the next.

        Raises ProtocolViolation as soon as the header is seen to be wrong, before its payload is read.
        """
        self._buffer += data
        if len(self._buffer) < HEADER.size:
            return None
        length, number = HEADER.unpack_from(self._buffer)
        kind = _KINDS.get(number)
        if kind is None or kind in self._unknown:
            raise ProtocolViolation(f"frame of unknown kind {number}")
        allowed = self._allowed.get(kind, ERROR_BYTES)
        if length > allowed:
            raise FrameTooLarge(kind, length, allowed)
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return kind, payload


class FrameTooLarge(ProtocolViolation):
    """A frame announces more than is allowed."""

    def __init__(self, kind: FrameKind, length: int, allowed: int) -> None:
        super().__init__(f"a {kind.name} frame of {length} bytes exceeds the limit of {allowed}")
        self.kind = kind
