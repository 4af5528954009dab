"""The control socket: one JSON object a line in, one a line out; for the owner of the data folder alone."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from interlock_suite.errors import SuiteError

Operation = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

_MAX_LINE = 64 * 1024
_CREDENTIALS = struct.Struct("3i")


class RefusedRequest(Exception):
    """The request is not one that the suite can follow; the text says why."""


class ControlServer:
    """Answers operations on a unix socket."""

    def __init__(self, path: Path, operations: Mapping[str, Operation]) -> None:
        self._path = path
        self._operations = operations
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; a socket that a killed supervisor left is replaced."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._converse, self._path, limit=_MAX_LINE)
        self._path.chmod(0o600)

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _peer_user(writer) not in (os.geteuid(), 0):
                return
            while line := await reader.readline():
                answer = await self._answer(line)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            # Hung up, or a line without end: nobody is left to answer.
            return
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise RefusedRequest("a request is a JSON object")
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                raise RefusedRequest(f"`op` must be one of {', '.join(sorted(self._operations))}")
            return await operation(request)
        except (RefusedRequest, SuiteError, json.JSONDecodeError, UnicodeDecodeError) as error:
            return {"error": str(error)}


def ask(path: Path, request: Mapping[str, Any], *, timeout: float = 30.0) -> dict[str, Any]:
    """Send one request to the suite with that control socket; SuiteError when it refuses or is not there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(os.fspath(path))
        except OSError:
            raise SuiteError(f"No suite answers at {path}.", "Start one with: interlock up") from None
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b'{"error": "The suite hung up."}')
    if "error" in answer:
        raise SuiteError(f"The suite refused: {answer['error']}", "Mend the request.")
    return dict(answer)


def _peer_user(writer: asyncio.StreamWriter) -> int:
    peer = writer.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user
