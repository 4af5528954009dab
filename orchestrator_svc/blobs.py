"""Inputs and results that are too large for a row: JSON documents in their canonical form, by digest."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import structlog

from orchestrator_svc.errors import blob_not_found, blob_quota
from svc_kit.errors import Unavailable, Violation, invalid
from svc_kit.strict_json import JsonValue, canonical, digest, parse

log = structlog.get_logger(__name__)

MAX_BYTES = 16 * 2**20
# A document nobody refers to is kept for so long, as the contract says.
GRACE_SECONDS = 3600.0

_SLICE_BYTES = 2**20
# Documents that are held in memory at the same time, whole and parsed.
_AT_ONCE = 4
# Uploads at the same time, and how long one may be silent.
_COMING_AT_ONCE = 16
_SILENCE_SECONDS = 5.0
_SWEEP_LIMIT = 100
_SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """What names a document."""

    digest: str
    size: int


class BlobStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def put(self, tenant: str, digest: str, data: bytes) -> None: ...
    async def stored_bytes(self, tenant: str) -> int: ...
    async def touch(self, tenant: str, digest: str) -> int | None: ...
    async def part(self, tenant: str, digest: str, *, at: int, count: int) -> bytes | None: ...
    async def sweep(self, *, grace: float, limit: int) -> int: ...


class Blobs:
    """Documents of all tenants, each seen by its own alone."""

    def __init__(self, store: BlobStore, *, tenant_bytes: int, grace: float = GRACE_SECONDS) -> None:
        self._store = store
        self._tenant_bytes = tenant_bytes
        self._grace = grace
        # Apart: who sends slowly holds up other senders for a while at the most, and no reader at all.
        self._coming = asyncio.Semaphore(_COMING_AT_ONCE)
        self._held = asyncio.Semaphore(_AT_ONCE)

    async def put(self, tenant: str, chunks: AsyncIterator[bytes], *, expected: str = "") -> Blob:
        """Store what the chunks make up; `expected` is the digest of the bytes as they come.

        Raises INVALID_FIELDS or BLOB_QUOTA.
        """
        async with self._coming:
            sent = await _received(chunks)
        if expected and digest(sent) != expected:
            raise invalid([Violation("digest", f"the bytes that came have {digest(sent)}")])
        async with self._held:
            document = await asyncio.to_thread(_canonical, sent)
            named = Blob(digest=digest(document), size=len(document))
            if await self._store.touch(tenant, named.digest) is None:
                if await self._store.stored_bytes(tenant) + named.size > self._tenant_bytes:
                    raise blob_quota(self._tenant_bytes)
                await self._store.put(tenant, named.digest, document)
            return named

    async def check(self, tenant: str, named: str) -> None:
        """Raise BLOB_NOT_FOUND unless it stands; it will, for long enough to be referred to."""
        if await self._store.touch(tenant, named) is None:
            raise blob_not_found(named)

    async def read(self, tenant: str, named: str) -> AsyncGenerator[bytes, None]:
        """The document, a part at a time. Raises BLOB_NOT_FOUND."""
        at = 0
        while True:
            part = await self._store.part(tenant, named, at=at, count=_SLICE_BYTES)
            if part is None:
                raise blob_not_found(named)
            if part:
                yield part
            if len(part) < _SLICE_BYTES:
                return
            at += len(part)

    async def value(self, tenant: str, named: str) -> JsonValue:
        """The document, parsed. Raises BLOB_NOT_FOUND."""
        async with self._held:
            await self.check(tenant, named)
            data = b"".join([part async for part in self.read(tenant, named)])
            return await asyncio.to_thread(parse, data, field="input_blob", max_bytes=MAX_BYTES)

    async def sweep(self) -> None:
        """For ever: delete what nothing refers to; ends by cancellation."""
        while True:
            try:
                while await self._store.sweep(grace=self._grace, limit=_SWEEP_LIMIT) >= _SWEEP_LIMIT:
                    pass
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("blob_sweep_failed")
            await asyncio.sleep(_SWEEP_SECONDS)


async def _received(chunks: AsyncIterator[bytes]) -> bytes:
    data = bytearray()
    while True:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise invalid([Violation("chunk", f"none came for {_SILENCE_SECONDS:g} s")]) from None
        if chunk is None:
            return bytes(data)
        data += chunk
        if len(data) > MAX_BYTES:
            raise invalid([Violation("chunk", f"more than the {MAX_BYTES} bytes allowed")])


def _canonical(data: bytes) -> bytes:
    document = canonical(parse(data, field="chunk", max_bytes=MAX_BYTES))
    if len(document) > MAX_BYTES:
        raise invalid([Violation("chunk", f"more than the {MAX_BYTES} bytes allowed, in canonical form")])
    return document
