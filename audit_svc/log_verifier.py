"""Verifies a stored log from its rows, piece by piece, beside everything else that the service does."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.explanations import Explanations, Known
from audit_svc.merkle import TileId
from audit_svc.sequence import LogName
from audit_svc.text_store import TextFlaw
from audit_svc.verification import Finding, Flaw, PartDigest, RangeCheck, Row

_ROWS_AT_A_TIME = 1024
MAX_FINDINGS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far it is, and what was found since the last one."""

    checked: int
    total: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The end: what it was held against, and whether the signed root was reached too."""

    checkpoint: SignedCheckpoint
    findings: tuple[Finding, ...]
    root_checked: bool
    complete: bool
    """False: so much is wrong that the rest was not looked at."""


class RowStore(Protocol):
    """What verifying needs of the database."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def rows(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[Row]: ...
    async def part_digests(
        self, log_id: uuid.UUID, event_ids: Sequence[uuid.UUID]
    ) -> Mapping[uuid.UUID, Sequence[PartDigest]]: ...
    async def full_tiles(
        self, log_id: uuid.UUID, tiles: Sequence[TileId]
    ) -> Mapping[TileId, Sequence[bytes]]: ...


class Texts(Protocol):
    """What is asked of the index of words."""

    async def flaws(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[TextFlaw]: ...


_SAID_OF_TEXTS = {
    "MISSING": "the words of the content {} are missing: it cannot be found by them",
    "OTHER": "the words of the content {} are not its own",
    "LEFT": "words of the content {} are left, which is gone",
}


class LogVerifier:
    """Reads all of a log, one piece at a time for all who ask."""

    def __init__(
        self, store: RowStore, texts: Texts, checkpoints: Checkpoints, explanations: Explanations
    ) -> None:
        self._store = store
        self._texts = texts
        self._checkpoints = checkpoints
        self._explanations = explanations
        self._turn = asyncio.Lock()

    async def run(self, tenant: str, *, begin: int, end: int) -> AsyncIterator[Progress | Verdict]:
        """Progress as it comes, then the verdict; `end` 0 is the newest checkpoint's size."""
        name = await self._store.log_of(tenant)
        signed = await self._checkpoints.newest(tenant)
        size = signed.checkpoint.size
        end = min(end or size, size)
        check = RangeCheck(signed.checkpoint.origin, begin=begin)
        known: Known = {}
        told = 0
        place = begin
        while name is not None and place < end and told < MAX_FINDINGS:
            until = min(place + _ROWS_AT_A_TIME, end)
            # In turns: however many ask, they leave the service to those who append.
            async with self._turn:
                findings = await self._piece(name, signed, check, known, (place, until))
            told += len(findings)
            place = until
            yield Progress(checked=place - begin, total=end - begin, findings=tuple(findings))
        reached = check.has_tree and place == size and begin == 0
        wrong = check.root_finding(signed.checkpoint.root) if reached else None
        yield Verdict(
            checkpoint=signed,
            findings=(wrong,) if wrong is not None else (),
            root_checked=reached,
            complete=place >= end,
        )

    async def _piece(
        self,
        name: LogName,
        signed: SignedCheckpoint,
        check: RangeCheck,
        known: Known,
        places: tuple[int, int],
    ) -> list[Finding]:
        begin, end = places
        rows = await self._store.rows(name.log_id, begin, end)
        parts = await self._store.part_digests(name.log_id, [row.event_id for row in rows])
        # Asked for last: what was removed since the rows were read is explained, or else still there.
        event_ids = [row.event_id for row in rows]
        explained = await self._explanations.gaps(name, signed, event_ids, known)
        # In a thread: it is nothing but computing.
        findings = await asyncio.to_thread(lambda: list(check.take(rows, parts, explained, end=end)))
        wanted = dict(check.full_tiles())
        stored = await self._store.full_tiles(name.log_id, list(wanted)) if wanted else {}
        for tile, hashes in wanted.items():
            if tuple(stored.get(tile, ())) != hashes:
                first = tile.number << (8 * (tile.tier + 1))
                message = f"tile {tile.number} of tier {tile.tier} is not made of the entries"
                findings.append(Finding(index=first, flaw=Flaw.TILE, message=message))
        for index, part, flaw in await self._texts.flaws(name.log_id, begin, end):
            findings.append(Finding(index=index, flaw=Flaw.TEXT, message=_SAID_OF_TEXTS[flaw].format(part)))
        return findings
