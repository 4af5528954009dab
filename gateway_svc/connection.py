"""What a connection is, and what it may hold. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from gateway_svc.statements import Statement, statement_flaws
from svc_kit.errors import Violation

MAX_DESCRIPTION = 500
MAX_MODELS = 64
MAX_MODEL = 128
MAX_AGENTS = 256
MAX_URL = 512
MAX_CREDENTIAL = 4096
MAX_PRICE = 10**12
MAX_TOOLS = 256
MAX_QUOTAS = {
    "max_requests_per_minute": 10**6,
    "max_tokens_per_day": 10**15,
    "max_cost_micros_per_day": 10**15,
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
READING = ("GET", "HEAD")

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_OUR_HEADERS = frozenset(
    {
        *("host", "content-type", "content-length", "accept", "accept-encoding", "user-agent"),
        *("connection", "transfer-encoding", "te", "trailer", "upgrade", "cookie", "expect"),
    }
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_URL = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(?:/[A-Za-z0-9._~/-]*)?")
_DATABASE_URL = re.compile(r"postgresql://[A-Za-z0-9._:\[\]-]+/[A-Za-z0-9_-]+")
_DATABASE_NAME = re.compile(r"/[A-Za-z0-9_-]{1,63}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CREDENTIAL = re.compile(r"[\x21-\x7e]*")
_WANTED_URL = "must be like https://api.example.com/v1: no user, no query, no fragment"


class ConnectionKey(NamedTuple):
    """By which a connection is known."""

    tenant: str
    connection_id: str


class ConnectionKind(StrEnum):
    """What a connection leads to; the names are those of the contract."""

    MODEL = "MODEL"
    HTTP = "HTTP"
    DATABASE = "DATABASE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """Prices of a million tokens, in millionths of a currency."""

    input_micros: int
    output_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionContent:
    """What people say of a connection."""

    base_url: str
    models: Mapping[str, ModelPrice]
    agents: tuple[str, ...]
    allow_private: bool
    description: str
    disabled: bool = False
    """Nothing goes out through it."""
    max_requests_per_minute: int = 0
    """Quotas of a connection to models; 0 = none."""
    max_tokens_per_day: int = 0
    max_cost_micros_per_day: int = 0
    tool_digests: tuple[str, ...] = ()
    """The tool versions that may use it."""
    methods: tuple[str, ...] = ()
    """Of an HTTP origin: what tools may do; none: GET and HEAD."""
    credential_header: str = ""
    """Of an HTTP origin: where the credential goes; empty: a bearer token in Authorization."""
    statements: tuple[Statement, ...] = ()
    """Of a database: what may be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One connection as stored."""

    tenant: str
    connection_id: str
    kind: ConnectionKind
    content: ConnectionContent
    sealed: bytes | None = field(repr=False)
    """The credential, encrypted."""
    create_time: datetime
    update_time: datetime
    creator: str
    etag: str

    @property
    def place(self) -> str:
        """To which the credential is bound: it opens for no other connection, and no other origin."""
        return f"connection\n{self.tenant}\n{self.connection_id}\n{origin(self.content)}"


def origin(content: ConnectionContent) -> str:
    """Scheme, host and port."""
    parts = urlsplit(content.base_url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def id_flaws(connection_id: str) -> Iterator[Violation]:
    """What is wrong with an id."""
    if not _NAME.fullmatch(connection_id):
        yield Violation(
            "connection.connection_id",
            "must be lower-case letters, digits and '-', at most 63, no '-' first",
        )


def content_flaws(kind: ConnectionKind, content: ConnectionContent) -> Iterator[Violation]:
    """Everything that is wrong with the rest."""
    match kind:
        case ConnectionKind.DATABASE:
            yield from _database_flaws(content)
        case ConnectionKind.HTTP:
            yield from _http_flaws(content)
        case ConnectionKind.MODEL:
            yield from _model_flaws(content)
    if len(content.description) > MAX_DESCRIPTION or "\0" in content.description:
        yield Violation("connection.description", f"at most {MAX_DESCRIPTION} characters, and no NUL")


def _model_flaws(content: ConnectionContent) -> Iterator[Violation]:
    yield from _url_flaws(content)
    if not 1 <= len(content.models) <= MAX_MODELS:
        yield Violation("connection.models", f"must be 1 to {MAX_MODELS} models of different names")
    for index, (name, price) in enumerate(content.models.items()):
        yield from _price_flaws(f"connection.models[{index}]", name, price)
    yield from _quota_flaws(content)
    if len(content.agents) > MAX_AGENTS:
        yield Violation("connection.agents", f"at most {MAX_AGENTS}")
    for index, agent in enumerate(content.agents):
        if not _NAME.fullmatch(agent):
            yield Violation(f"connection.agents[{index}]", "must be the name of an agent")
    yield from _foreign(content, ("tool_digests", "statements", "methods", "credential_header"), "models")


def _price_flaws(where: str, name: str, price: ModelPrice) -> Iterator[Violation]:
    if not 1 <= len(name) <= MAX_MODEL or not name.isprintable():
        yield Violation(f"{where}.name", f"must be 1 to {MAX_MODEL} printable characters")
    for side, micros in (("input", price.input_micros), ("output", price.output_micros)):
        if not 0 <= micros <= MAX_PRICE:
            yield Violation(f"{where}.{side}_price_micros", f"must be 0 to {MAX_PRICE}")


def _database_flaws(content: ConnectionContent) -> Iterator[Violation]:
    parts = _split(content.base_url)
    named = parts is not None and parts.hostname and _DATABASE_NAME.fullmatch(parts.path)
    if not named or len(content.base_url) > MAX_URL or not _DATABASE_URL.fullmatch(content.base_url):
        yield Violation("connection.base_url", "must be like postgresql://db.example.com:5432/orders")
    yield from statement_flaws(content.statements)
    yield from _tool_flaws(content)
    names = ("models", "agents", *MAX_QUOTAS, "methods", "credential_header")
    yield from _foreign(content, names, "a database")


def _http_flaws(content: ConnectionContent) -> Iterator[Violation]:
    yield from _url_flaws(content)
    yield from _tool_flaws(content)
    for index, method in enumerate(content.methods):
        if method not in METHODS:
            yield Violation(f"connection.methods[{index}]", f"must be one of {', '.join(METHODS)}")
    header = content.credential_header
    if header and (not _HEADER.fullmatch(header) or header.lower() in _OUR_HEADERS):
        yield Violation("connection.credential_header", "must be the name of a header that nothing else sets")
    yield from _foreign(content, ("models", "agents", *MAX_QUOTAS, "statements"), "an HTTP origin")


def _tool_flaws(content: ConnectionContent) -> Iterator[Violation]:
    if len(content.tool_digests) > MAX_TOOLS:
        yield Violation("connection.tool_digests", f"at most {MAX_TOOLS}")
    for index, digest in enumerate(content.tool_digests):
        if not _DIGEST.fullmatch(digest):
            yield Violation(f"connection.tool_digests[{index}]", "must be the digest of a tool version")


def _foreign(content: ConnectionContent, names: Iterable[str], where: str) -> Iterator[Violation]:
    for name in names:
        if getattr(content, name):
            yield Violation(f"connection.{name}", f"must be empty: it leads to {where}")


def credential_flaws(credential: str) -> Iterator[Violation]:
    """What is wrong with a credential; never the credential itself."""
    if len(credential) > MAX_CREDENTIAL or not _CREDENTIAL.fullmatch(credential):
        yield Violation(
            "credential", f"must be at most {MAX_CREDENTIAL} printable ASCII characters without spaces"
        )


def _quota_flaws(content: ConnectionContent) -> Iterator[Violation]:
    for name, most in MAX_QUOTAS.items():
        if not 0 <= getattr(content, name) <= most:
            yield Violation(f"connection.{name}", f"must be 1 to {most}, or 0 for no quota")


def _url_flaws(content: ConnectionContent) -> Iterator[Violation]:
    url = content.base_url
    parts = _split(url)
    if parts is None or not parts.hostname or len(url) > MAX_URL or not _URL.fullmatch(url):
        yield Violation("connection.base_url", _WANTED_URL)
    elif any(part in (".", "..") for part in parts.path.split("/")):
        yield Violation("connection.base_url", "must have no . or .. in its path")
    elif parts.scheme == "http" and not content.allow_private:
        yield Violation(
            "connection.base_url",
            "must be https, or lead to a private address with allow_private_addresses",
        )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        return parts if parts.port != 0 else None
    except ValueError:
        return None
