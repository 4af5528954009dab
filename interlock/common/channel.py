"""Channels to services: token and deadline on every call; safe calls tried again."""

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from interlock.common.addresses import parse_peer
from interlock.common.remote_error import known_code, retry_after

TokenSource: TypeAlias = Callable[[], str]

DEFAULT_DEADLINE_SECONDS = 10.0
_MAX_MESSAGE_BYTES = 4 * 2**20 + 64 * 1024
_MAX_METADATA_BYTES = 16 * 1024
# The stock policy stays with the first address that answers.
SPREAD = ("grpc.lb_policy_name", "round_robin")
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


class TokenFile:
    """The token in a file that somebody else renews; read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """The token of now. While the file is away the last one stays; OSError if there never was one."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._seen:
                self._token = self._path.read_text().strip()
                self._seen = stamp
        except OSError:
            if self._seen is None:
                raise
        return self._token


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Whom a client trusts, and what it shows of itself; PEM files."""

    authority: Path | None = None  # None: the system's authorities
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read now; a channel keeps what it was made with."""
        return grpc.ssl_channel_credentials(
            root_certificates=self.authority.read_bytes() if self.authority else None,
            private_key=self.key.read_bytes() if self.key else None,
            certificate_chain=self.certificate.read_bytes() if self.certificate else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What the calls of a server take over from the call on whose behalf they are made."""

    metadata: Sequence[tuple[str, str]]
    deadline: float | None  # on the event loop's clock


def channel(
    address: str,
    token: TokenSource | None = None,
    *,
    safe_methods: Collection[str] = (),
    deadline: float = DEFAULT_DEADLINE_SECONDS,
    tls: ClientTls | None = None,
    allow_plaintext_beyond_loopback: bool = False,
    errand: Callable[[], Errand | None] = lambda: None,
) -> grpc.aio.Channel:
    """A channel to `address` (host:port or unix:/path); it connects, and connects again, by itself.

    Several addresses separated by commas are replicas: calls go to those that answer, in turn, and what is
    tried again goes to the next one.

    `safe_methods` are full names ("/package.Service/Method") that may be sent twice without doing a thing
    twice: with one request and one reply, they are tried again on UNAVAILABLE until the deadline, unless the
    request has a `request_id` and leaves it empty. `deadline` is the seconds of calls with one reply that
    name none. `errand` is asked at each call for what is being served, if anything is. ValueError if a token
    would cross a network in plain text.
    """
    peer = parse_peer(address)
    if token and tls is None and not peer.is_local and not allow_plaintext_beyond_loopback:
        raise ValueError(f"a token would be sent to {address} in plain text; configure TLS")
    outgoing = _Outgoing(token, deadline, errand)
    interceptors: list[grpc.aio.ClientInterceptor] = [
        # Outside of the attempts: all of them share one deadline and one request id.
        _UnaryUnary(outgoing),
        _UnaryStream(outgoing),
        _StreamUnary(outgoing),
        _StreamStream(outgoing),
        _Retry(frozenset(safe_methods)),
    ]
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # A peer that vanished is noticed within 15 s, also while a stream is silent.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A restarted service is found again at once, not after the stock two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # A proxy that the environment names is for the web, not for the service next door.
        ("grpc.enable_http_proxy", 0),
    ]
    if peer.is_spread:
        options.append(SPREAD)
    if tls is not None:
        return grpc.aio.secure_channel(
            peer.target, tls.credentials(), options=options, interceptors=interceptors
        )
    return grpc.aio.insecure_channel(peer.target, options=options, interceptors=interceptors)


class _Outgoing:
    """What every call takes along."""

    def __init__(
        self, token: TokenSource | None, deadline: float, errand: Callable[[], Errand | None]
    ) -> None:
        self._token = token
        self._deadline = deadline
        self._errand = errand

    def prepare(self, details: grpc.aio.ClientCallDetails, *, one_reply: bool) -> grpc.aio.ClientCallDetails:
        """`details` with metadata that the caller did not set itself, and a deadline."""
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        errand = self._errand()
        for key, value in errand.metadata if errand is not None else ():
            if metadata.get(key) is None:
                metadata.add(key, value)
        if self._token is not None and metadata.get("authorization") is None:
            metadata.add("authorization", f"Bearer {self._token()}")
        timeout = details.timeout
        if timeout is None and one_reply:
            timeout = self._deadline
        if one_reply and errand is not None and errand.deadline is not None and timeout is not None:
            # What is asked on behalf of a call ends with it.
            timeout = min(timeout, max(0.0, errand.deadline - asyncio.get_running_loop().time()))
        return _with(details, timeout=timeout, metadata=metadata)


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._outgoing.prepare(client_call_details, one_reply=True), request)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._outgoing.prepare(client_call_details, one_reply=False), request)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(
            self._outgoing.prepare(client_call_details, one_reply=True), request_iterator
        )


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing

    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await continuation(
            self._outgoing.prepare(client_call_details, one_reply=False), request_iterator
        )


class _Retry(grpc.aio.UnaryUnaryClientInterceptor):
    """Tries safe methods again on UNAVAILABLE, with jittered pauses, or those that the server asks for."""

    def __init__(self, safe_methods: frozenset[str]) -> None:
        self._safe_methods = safe_methods

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        # A method that takes a request id may be repeated only with one.
        safe = (
            _method(client_call_details) in self._safe_methods and getattr(request, "request_id", None) != ""
        )
        if not safe:
            return await continuation(client_call_details, request)
        now = asyncio.get_running_loop().time
        end = now() + client_call_details.timeout
        pause = _FIRST_PAUSE_SECONDS
        while True:
            attempt = _with(client_call_details, timeout=max(0.0, end - now()))
            call = await continuation(attempt, request)
            if known_code(await call.code()) is not grpc.StatusCode.UNAVAILABLE:
                return call
            wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, so that clients do not come in step
            wait = max(wait, retry_after(await call.trailing_metadata()) or 0.0)
            if now() + wait >= end:
                return call
            await asyncio.sleep(wait)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def _with(details: grpc.aio.ClientCallDetails, **changes: Any) -> grpc.aio.ClientCallDetails:
    fields = ("method", "timeout", "metadata", "credentials", "wait_for_ready")
    return grpc.aio.ClientCallDetails(*(changes.get(name, getattr(details, name)) for name in fields))


def _method(details: grpc.aio.ClientCallDetails) -> str:
    name: str | bytes = details.method
    return name.decode() if isinstance(name, bytes) else name
