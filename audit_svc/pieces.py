"""Pieces of a log as they are stored, read for whoever verifies it."""

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from audit_svc.event import RemovedEntry
from audit_svc.sequence import LogName
from audit_svc.text_store import TextFlaw
from audit_svc.verification import Promise, Promises, Row, promise_of
from audit_svc.verification_store import StoredContent

_ROWS_AT_A_TIME = 1024
_HELD_BYTES = 16 * 1024 * 1024
_BREATH_BYTES = 64 * 1024
_CONTENT_BYTES = 2048
"""What a content costs in any case, as so many bytes of one."""


class ContentStore(Protocol):
    """What is asked of the database for contents; the store says what each does."""

    async def contents(self, log_id: uuid.UUID, event_ids: Iterable[str]) -> Sequence[StoredContent]: ...
    async def large_contents(
        self, log_id: uuid.UUID, event_ids: Iterable[str]
    ) -> Sequence[StoredContent]: ...


class RowStore(ContentStore, Protocol):
    """What is asked of the database for whole pieces."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def rows(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[Row]: ...
    async def removed_entries(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[RemovedEntry]: ...


class Texts(Protocol):
    """What is asked of the index of words."""

    async def flaws(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[TextFlaw]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The entries from index `begin` below `end`: their rows in order, and what leaves have to promise.

    `removed` is what the database claims of those that have no row, by index.
    """

    begin: int
    end: int
    rows: Sequence[Row]
    contents: Mapping[str, Promises]
    texts: Sequence[TextFlaw]
    removed: Mapping[int, RemovedEntry]


class Pieces:
    """Reads a log piece by piece, and of its contents no more at once than some messages hold."""

    def __init__(self, store: RowStore, texts: Texts) -> None:
        self._store = store
        self._texts = texts

    async def log_of(self, tenant: str) -> LogName | None:
        """A tenant's log, if it has one."""
        return await self._store.log_of(tenant)

    async def read(self, log_id: uuid.UUID, begin: int, end: int) -> Piece | None:
        """The piece at `begin`, of those below `end`; None where that is behind the last of them."""
        if begin >= end:
            return None
        end = min(begin + _ROWS_AT_A_TIME, end)
        (rows, contents), texts = await asyncio.gather(
            self._stored(log_id, begin, end), self._texts.flaws(log_id, begin, end)
        )
        removed: Sequence[RemovedEntry] = ()
        if len(rows) < end - begin:
            # Asked for last: what went since the rows were read has them still.
            removed = await self._store.removed_entries(log_id, begin, end)
        claimed = {each.index: each for each in removed}
        return Piece(begin=begin, end=end, rows=rows, contents=contents, texts=texts, removed=claimed)

    async def _stored(
        self, log_id: uuid.UUID, begin: int, end: int
    ) -> tuple[Sequence[Row], Mapping[str, Promises]]:
        rows = await self._store.rows(log_id, begin, end)
        return rows, await promises(self._store, log_id, [row.event_id for row in rows])


async def promises(
    store: ContentStore, log_id: uuid.UUID, event_ids: Sequence[str]
) -> Mapping[str, Promises]:
    """What leaves have to say of the contents as they are stored, by event."""
    stored: dict[str, dict[str, Promise]] = {}
    contents = await store.contents(log_id, event_ids)
    await _promise(contents, stored)
    weights: dict[str, int] = {}
    for content in contents:
        if content.body is None:
            weights[content.event_id] = weights.get(content.event_id, 0) + content.size
    for load in _loads(weights):
        await _promise(await store.large_contents(log_id, load), stored)
    return stored


async def _promise(contents: Sequence[StoredContent], stored: dict[str, dict[str, Promise]]) -> None:
    """What leaves have to say of contents, those without a body excepted."""
    weight = 0
    for event_id, name, content_type, salt, size, body in contents:
        if body is None:
            continue
        stored.setdefault(event_id, {})[name] = promise_of(name, content_type, salt, body)
        weight += size + _CONTENT_BYTES
        if weight > _BREATH_BYTES:
            weight = 0
            # Those who append have their turn.
            await asyncio.sleep(0)


def _loads(weights: Mapping[str, int]) -> Iterator[list[str]]:
    """Events whose contents together are not too much; one always fits."""
    load: list[str] = []
    weight = 0
    for event_id, each in weights.items():
        if load and weight + each > _HELD_BYTES:
            yield load
            load, weight = [], 0
        load.append(event_id)
        weight += each
    if load:
        yield load
