"""A request of a tool: what it may say of path, query, headers and body. Pure.

One canonical form is checked, recorded and sent; nothing is decoded twice.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from gateway_svc.connection import METHODS

MAX_BODY_BYTES = 262_144
MAX_URL_CHARACTERS = 4096
MAX_HEADER_CHARACTERS = 1024

# The characters of a path, and encoded ones; an encoded / or \ would be a border for some readers only.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")
_AMBIGUOUS = re.compile(r"%(?:2[fF]|5[cC]|00|0[aAdD]|25)")
_VALUE = re.compile(r"[\x20-\x7e]*")
# What says something of the content, and not of the way or of who asks.
HEADERS = frozenset(
    {
        *("accept", "accept-language", "content-type", "idempotency-key"),
        *("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "prefer"),
    }
)


class RequestFlawError(ValueError):
    """The request cannot be sent; the message says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingRequest:
    """A request as it is sent, but for the connection's own parts."""

    connection: str
    method: str
    target: str
    """Path and query, added to the connection's base URL."""
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)


def to_request(params: Mapping[str, Any]) -> OutgoingRequest:
    """From what a program asked, of which nothing is believed; raises RequestFlawError."""
    connection, path, method = (_text(params, name) for name in ("connection", "path", "method"))
    if method not in METHODS:
        raise RequestFlawError(f"method must be one of {', '.join(METHODS)}")
    target = _checked_path(path) + _encoded_query(params.get("query", []))
    if len(target) > MAX_URL_CHARACTERS:
        raise RequestFlawError(f"path and query are longer than {MAX_URL_CHARACTERS} characters")
    body = _body(params)
    if body and method in ("GET", "HEAD"):
        raise RequestFlawError(f"{method} has no body")
    return OutgoingRequest(
        connection=connection,
        method=method,
        target=target,
        headers=dict(_headers(params.get("headers", {}))),
        body=body,
    )


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise RequestFlawError(f"{name} must be a text")
    return value


def _checked_path(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise RequestFlawError("path must begin with / and hold no other than encoded special characters")
    if _AMBIGUOUS.search(path):
        raise RequestFlawError("path must not hold an encoded /, \\, %, line break or NUL")
    # Servers that know parameters of segments, as in /..;a=b/, cut them off before they look at the dots.
    if any(unquote(part.partition(";")[0]) in (".", "..") for part in path.split("/")):
        raise RequestFlawError("path must have no . or .. in it")
    return path


def _encoded_query(query: Any) -> str:
    if not isinstance(query, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair)  # noqa: PLR2004
        for pair in query
    ):
        raise RequestFlawError("query must be pairs of texts")
    pairs = [f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query]
    return f"?{'&'.join(pairs)}" if pairs else ""


def _headers(headers: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(headers, dict):
        raise RequestFlawError("headers must be an object")
    for name, value in headers.items():
        if name.lower() not in HEADERS:
            raise RequestFlawError(f"header {name[:64]!r} is not one of {', '.join(sorted(HEADERS))}")
        if not isinstance(value, str) or len(value) > MAX_HEADER_CHARACTERS or not _VALUE.fullmatch(value):
            raise RequestFlawError(f"header {name!r} must be printable ASCII, at most 1024 characters")
        yield name.lower(), value


def _body(params: Mapping[str, Any]) -> bytes:
    try:
        body = base64.b64decode(_text(params, "body"), validate=True)
    except (binascii.Error, ValueError):
        raise RequestFlawError("body must be base64") from None
    if len(body) > MAX_BODY_BYTES:
        raise RequestFlawError(f"body is longer than {MAX_BODY_BYTES} bytes")
    return body
