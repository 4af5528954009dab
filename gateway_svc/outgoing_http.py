"""Sends one request through a connection: to a vetted address, without redirects, bounded in bytes."""

import ipaddress
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from urllib.parse import urlsplit

import httpx

from gateway_svc.addresses import PRIVATE, Network, vetted
from gateway_svc.bounded_network import BoundedTransport
from gateway_svc.connection import Connection
from gateway_svc.errors import address_forbidden
from gateway_svc.names import Names, NameUnknownError
from gateway_svc.outgoing_request import OutgoingRequest

MAX_ANSWER_BYTES = 262_144
# With the head, and all that may stand between the bytes of a body.
_MAX_RECEIVED_BYTES = 2 * MAX_ANSWER_BYTES
_CONNECT_SECONDS = 10.0
_PORTS = {"http": 80, "https": 443}


class NotSentError(Exception):
    """The other side could not be reached; nothing was sent."""


class BrokenOffError(Exception):
    """The request was sent, and the answer did not come as a whole; `why` is ours."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class TooLargeError(Exception):
    """The answer has more bytes than are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@cache
def _tls() -> ssl.SSLContext:
    """Reads the authorities of the system, which takes its time: not before something is sent."""
    return httpx.create_ssl_context(trust_env=False)


class OutgoingHttp:
    """HTTP as far as connections go; neither proxies nor credentials come from the environment."""

    def __init__(self, names: Names, *, private: Sequence[Network] = PRIVATE) -> None:
        self._names = names
        self._private = private
        # Made once: reading the certificates takes longer than a connection.

    async def send(self, connection: Connection, request: OutgoingRequest, *, credential: str) -> HttpAnswer:
        """The answer, whatever its status.

        Raises ADDRESS_FORBIDDEN, NotSentError, BrokenOffError or TooLargeError. Ends when it is cancelled.
        """
        base = urlsplit(connection.content.base_url)
        host, port = base.hostname or "", base.port or _PORTS[base.scheme]
        try:
            found = await self._names.addresses(connection.tenant, host, port)
        except NameUnknownError:
            raise NotSentError from None
        address = vetted(
            found,
            allow_private=connection.content.allow_private,
            public=base.scheme == "https",
            private=self._private,
        )
        if address is None:
            raise address_forbidden(connection.connection_id, host)
        headers = {
            "accept": "*/*",
            **request.headers,
            "host": base.netloc,
            # A few bytes that unpack into many could not be bounded as they come.
            "accept-encoding": "identity",
            "user-agent": "interlock",
        }
        if credential:
            own = connection.content.credential_header.lower()
            headers[own or "authorization"] = credential if own else f"Bearer {credential}"
        url = f"{base.scheme}://{_in_url(address)}:{port}{base.path}{request.target}"
        # A client of its own: connections of another host at the same address are not to be mixed up.
        async with httpx.AsyncClient(
            transport=BoundedTransport(_tls(), most=_MAX_RECEIVED_BYTES),
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        ) as client:
            built = client.build_request(
                request.method, url, content=request.body, headers=headers, extensions={"sni_hostname": host}
            )
            return await _answer(client, built)


async def _answer(client: httpx.AsyncClient, request: httpx.Request) -> HttpAnswer:
    # No text of httpx goes out: it may quote the request.
    try:
        response = await client.send(request, stream=True)
    except (httpx.ConnectError, httpx.ConnectTimeout):
        raise NotSentError from None
    except httpx.HTTPError as error:
        raise BrokenOffError(type(error).__name__) from None
    try:
        return HttpAnswer(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=await _bounded(response),
        )
    except httpx.HTTPError as error:
        raise BrokenOffError(type(error).__name__) from None
    finally:
        await response.aclose()


async def _bounded(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BrokenOffError("ContentEncoding")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise TooLargeError
    return bytes(body)


def _in_url(address: str) -> str:
    return f"[{address}]" if ipaddress.ip_address(address).version == 6 else address  # noqa: PLR2004
