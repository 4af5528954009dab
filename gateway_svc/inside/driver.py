"""Runs a tool that has connections: it may import `interlock_tool`, whose functions ask the gateway.

This file is the program that a sandbox is given, so it uses the standard library alone. The tool's code runs
in the same process and may do with all of this as it likes: the gateway holds every credential, checks every
question, and believes nothing.
"""

import asyncio
import base64
import inspect
import json
import linecache
import os
import struct
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

_CHANNEL = 3
_HEADER = struct.Struct("!IB")
_ORDINAL_BYTES = 4
_CALL = 8
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_one_at_a_time = threading.Lock()


class QueryError(Exception):
    """A query that brought nothing; `reason` says why, `executed` is False or, when nobody knows, None."""

    def __init__(self, message: str, *, reason: str, executed: bool | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.executed = executed


def query(connection: str, statement: str, params: Mapping[str, Any] | None = None) -> Any:
    """The rows that a statement of a connection brings, each an object; raises QueryError."""
    asked = {"connection": connection, "statement": statement, "params": dict(params or {})}
    said = _ask("query", asked)
    if "error" in said:
        raise QueryError(
            said["error"]["message"], reason=said["error"]["reason"], executed=said["error"]["executed"]
        )
    return said["rows"]


class FetchError(Exception):
    """A request that brought nothing; `reason` and `executed` as of QueryError."""

    def __init__(self, message: str, *, reason: str, executed: bool | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.executed = executed


class Response:
    """What came back, whatever its status: redirects are not followed."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers  # names in lower case
        self.content = content

    @property
    def text(self) -> str:
        """The content as UTF-8."""
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The content as JSON."""
        return json.loads(self.content)


def fetch(
    connection: str,
    path: str = "",
    *,
    method: str = "GET",
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    json_body: Any = None,
    body: bytes | str | None = None,
) -> Response:
    """Send a request through a connection to an HTTP origin; raises FetchError.

    `path` begins with / and is added to the connection's own; `query` is encoded.
    """
    sent = dict(headers or {})
    if json_body is not None:
        body = _encode(json_body)
        sent.setdefault("content-type", "application/json")
    data = body.encode() if isinstance(body, str) else body or b""
    asked = {
        "connection": connection,
        "path": path,
        "method": method,
        "query": [[str(name), str(each)] for name, value in (query or {}).items() for each in _each(value)],
        "headers": sent,
        "body": base64.b64encode(data).decode(),
    }
    said = _ask("fetch", asked)
    if "error" in said:
        raise FetchError(
            said["error"]["message"], reason=said["error"]["reason"], executed=said["error"]["executed"]
        )
    return Response(said["status"], said["headers"], base64.b64decode(said["body"]))


def _each(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def run(source: str, entrypoint: str, filename: str, arguments: dict[str, Any]) -> Any:
    """What the tool returns; raises what it raises."""
    offered = types.ModuleType("interlock_tool")
    offered.__dict__.update(query=query, QueryError=QueryError, fetch=fetch, FetchError=FetchError)
    sys.modules["interlock_tool"] = offered
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType("tool")
    module.__file__ = filename
    sys.modules["tool"] = module
    exec(compile(source, filename, "exec", dont_inherit=True), module.__dict__)  # noqa: S102  the purpose
    function = module.__dict__.get(entrypoint)
    if not callable(function):
        raise LookupError(f"{filename} defines no function {entrypoint!r}")  # noqa: TRY004  it is missing
    value = function(**arguments)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _ask(method: str, params: Mapping[str, Any]) -> Any:
    payload = _encode({"method": method, "params": params}).encode()
    with _one_at_a_time:
        data = memoryview(_HEADER.pack(len(payload), _CALL) + payload)
        while data:
            data = data[os.write(_CHANNEL, data) :]
        length, _ = _HEADER.unpack(_read(_HEADER.size))
        return json.loads(_read(length)[_ORDINAL_BYTES:])


def _read(count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = os.read(_CHANNEL, min(count - len(data), 1 << 20))
        if not chunk:
            os._exit(0)  # the gateway is gone
        data += chunk
    return bytes(data)
