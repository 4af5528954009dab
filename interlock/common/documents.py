"""Large JSON documents on their way: cut into messages, gathered, and checked by their digest."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

CHUNK_BYTES = 1024 * 1024
# What is larger travels as a blob, and what is larger than a blob not at all.
INLINE_BYTES = 256 * 1024
MAX_BYTES = 16 * 1024 * 1024


class DocumentDamaged(Exception):
    """What came is not what its digest names."""


def digest(data: bytes) -> str:
    """As blobs are named."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def chunks(data: bytes) -> Iterator[bytes]:
    """The data in parts that fit a message each; one empty part where there is none."""
    for start in range(0, max(1, len(data)), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


async def upload(
    method: Callable[..., Any], head: Message, body: Iterable[Message], *, timeout: float
) -> Any:
    """Call a method that takes a stream: its body goes out once the peer has taken the head.

    A peer that refuses a stream while it is being sent cannot be heard: grpc tells of the failed write alone.
    """

    async def requests() -> AsyncGenerator[Message, None]:
        yield head
        await call.initial_metadata()
        for message in body:
            if call.done():
                return
            yield message

    call = method(requests(), timeout=timeout)
    return await call


async def gathered(parts: AsyncIterable[bytes], *, named: str) -> str:
    """The document that `named` is the digest of; raises DocumentDamaged."""
    data = b"".join([part async for part in parts])
    if digest(data) != named:
        raise DocumentDamaged(f"{len(data)} bytes came for {named}, and have {digest(data)}")
    return data.decode()
