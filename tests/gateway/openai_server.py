"""A scripted provider of language models: chat completions over real HTTP, as badly as a test wants."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

_REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 429: "Too Many Requests"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What came."""

    method: str = "POST"
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(kw_only=True)
class Reply:
    """What goes back, once `ready`; `broken_off`: without the end."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    ready: asyncio.Event | None = None
    broken_off: bool = False


def completion(text: str = "", *, calls: Any = None, tokens: tuple[int, int] | None = (11, 7)) -> Reply:
    """An answer of text, or tool calls (pairs of name and arguments); `tokens` in and out."""
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for index, (name, arguments) in enumerate(calls)
        ]
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "small",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"},
        ],
    }
    if tokens is not None:
        answer["usage"] = {
            "prompt_tokens": tokens[0],
            "completion_tokens": tokens[1],
            "total_tokens": sum(tokens),
        }
    return Reply(body=json.dumps(answer).encode())


class OpenAiServer:
    """Answers with the script, one reply a request, and with the last one for ever."""

    def __init__(self) -> None:
        self.script: list[Reply] = [completion("hello")]
        self.requests: list[Request] = []
        self.gone = 0
        """How many requests were given up by whoever sent them."""
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL of a connection to it."""
        return f"http://127.0.0.1:{self.port}/v1"

    def replies(self, *script: Reply) -> None:
        self.script = list(script)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, path, _ = head[0].split(" ")
            self.requests.append(Request(method=method, path=path, headers=headers, body=body))
            reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if reply.ready is not None and not await self._waited(reader, reply.ready):
                self.gone += 1
                return
            length = len(reply.body) + (100 if reply.broken_off else 0)
            fields = {"content-type": "application/json", "content-length": str(length), **reply.headers}
            lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}"]
            lines += [f"{name}: {value}" for name, value in fields.items()]
            writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + reply.body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
        finally:
            writer.close()

    async def _waited(self, reader: asyncio.StreamReader, ready: asyncio.Event) -> bool:
        """Whether the reply became ready before the client went away."""
        waiting, going = asyncio.create_task(ready.wait()), asyncio.create_task(reader.read(1))
        await asyncio.wait({waiting, going}, return_when=asyncio.FIRST_COMPLETED)
        came = ready.is_set()
        for task in (waiting, going):
            task.cancel()
        await asyncio.gather(waiting, going, return_exceptions=True)
        return came


@asynccontextmanager
async def openai_server() -> AsyncIterator[OpenAiServer]:
    """A provider on a port of its own."""
    provider = OpenAiServer()
    server = await asyncio.start_server(provider.handle, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
