"""A provider of language models that answers all alike and at once, in a process of its own."""

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection

_SPAWN = multiprocessing.get_context("spawn")
MODEL = "bench"
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
).encode()


@contextlib.contextmanager
def model_endpoint() -> Iterator[str]:
    """Its base URL."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that the end of the process is heard here
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(_ANSWER)}\r\n\r\n"
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
        while True:
            asked = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = asked.partition("content-length:")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
            writer.write(head.encode() + _ANSWER)
            await writer.drain()


def _serve(pipe: Connection) -> None:
    async def main() -> None:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())
