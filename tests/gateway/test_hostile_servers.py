"""Servers that answer for ever, in as many pieces as they can: it costs the gateway little."""

import asyncio
import contextlib
import dataclasses

import pytest

from gateway_svc.names import Names
from gateway_svc.outgoing_http import BrokenOffError, OutgoingHttp
from gateway_svc.outgoing_request import OutgoingRequest
from tests.gateway.test_hostile_databases import connection

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [(b"", b"HTTP/1.1 100 \r\n\r\n"), (CHUNKED, b"1\r\nx\r\n"), (b"HTTP/1.1 200 OK\r\n", b"a:\r\n")],
)
async def test_an_answer_without_end_is_broken_off(first: bytes, then: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            while True:
                writer.write(then * 500)
                await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        stored = connection(server.sockets[0].getsockname()[1])
        url = stored.content.base_url.replace("postgresql", "http")
        stored = dataclasses.replace(stored, content=dataclasses.replace(stored.content, base_url=url))
        request = OutgoingRequest(connection="mine", method="GET", target="/", headers={})
        async with asyncio.timeout(20):
            with pytest.raises(BrokenOffError):
                await OutgoingHttp(Names()).send(stored, request, credential="")
    finally:
        server.close()
