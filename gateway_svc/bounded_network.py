"""Connections of which little is read at a time, and not much altogether: what comes is a stranger's."""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

# What can stand in so few bytes is read in milliseconds, whatever it is: thousands of one-byte chunks, or of
# answers that say "wait". The rest of the service has its turn after each.
_READ_BYTES = 4096


class BoundedTransport(httpx.AsyncHTTPTransport):
    """Reads at most so many bytes of a connection, with all that stands around a body; then it breaks off."""

    def __init__(self, tls: ssl.SSLContext, *, most: int) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=_Network(most))


class _Network(httpcore.AsyncNetworkBackend):
    def __init__(self, most: int) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._most = most

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._most)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream, most: int) -> None:
        self._inner = inner
        self._left = most

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._inner.read(min(max_bytes, _READ_BYTES), timeout)
        self._left -= len(data)
        if self._left < 0:
            raise httpcore.ReadError("more than is taken")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._left)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
