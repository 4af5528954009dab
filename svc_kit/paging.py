"""Page tokens that name the last row's sort keys, bound to the question they belong to."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import InvalidArgument, Violation, invalid

PageKey: TypeAlias = "str | int | datetime | UUID"

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000

_MAX_TOKEN_BYTES = 2048
_MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a page token is an answer to; with anything else the token is refused."""

    method: str
    tenant: str
    filter: str = ""
    order_by: str = ""

    def digest(self) -> str:
        """Short, and different for different questions."""
        parts = json.dumps([self.method, self.tenant, self.filter, self.order_by])
        return hashlib.sha256(parts.encode()).hexdigest()[:16]


def page_size(requested: int, *, default: int = DEFAULT_PAGE_SIZE, maximum: int = MAX_PAGE_SIZE) -> int:
    """`default` for 0, at most `maximum`; InvalidArgument if negative."""
    if requested < 0:
        raise invalid([Violation("page_size", f"must not be negative; 0 means {default}")])
    return min(requested or default, maximum)


def encode_page_token(keys: Sequence[PageKey], question: Question) -> str:
    """The token of the page after the row with these sort keys."""
    body = json.dumps([question.digest(), *(_write(key) for key in keys)], separators=(",", ":"))
    return base64.urlsafe_b64encode(body.encode()).rstrip(b"=").decode()


def decode_page_token(
    token: str, question: Question, kinds: Sequence[type[PageKey]]
) -> tuple[Any, ...] | None:
    """The sort keys in `token`, one of each of `kinds`; None for the first page; or PAGE_TOKEN_INVALID."""
    if not token:
        return None
    try:
        if len(token) > _MAX_TOKEN_BYTES:
            raise ValueError("too long")
        padded = token + "=" * (-len(token) % 4)
        body = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if not isinstance(body, list) or body[:1] != [question.digest()]:
            raise ValueError("of another question")
        return tuple(_READERS[kind](value) for kind, value in zip(kinds, body[1:], strict=True))
    except (ValueError, TypeError, RecursionError, binascii.Error):
        raise InvalidArgument(
            ErrorReason.ERROR_REASON_PAGE_TOKEN_INVALID,
            "the page token is damaged or belongs to another method, filter, order or tenant",
            violations=[Violation("page_token", "is not a token that this question was answered with")],
            help="Begin again without a page token, and keep all other fields the same from page to page.",
        ) from None


def _write(key: PageKey) -> str | int:
    if isinstance(key, datetime):
        return key.astimezone(UTC).isoformat()
    return str(key) if isinstance(key, UUID) else key


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a text")
    return value


def _read_integer(value: Any) -> int:
    if type(value) is not int or abs(value) > _MAX_INTEGER:
        raise ValueError("not an integer")
    return value


def _read_time(value: Any) -> datetime:
    time = datetime.fromisoformat(_read_text(value))
    if time.tzinfo is None:
        raise ValueError("not an absolute time")
    return time.astimezone(UTC)


def _read_uuid(value: Any) -> UUID:
    return UUID(_read_text(value))


_READERS: Mapping[type[PageKey], Callable[[Any], PageKey]] = {
    str: _read_text,
    int: _read_integer,
    datetime: _read_time,
    UUID: _read_uuid,
}
