"""Verifies a stored log from its rows, piece by piece, beside everything else that the service does."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.explanations import Explanations, Known
from audit_svc.merkle import TileId
from audit_svc.pieces import Piece, Pieces
from audit_svc.range_check import Doubt, RangeCheck
from audit_svc.sequence import LogName
from audit_svc.verification import Finding, Flaw, Row, row_findings
from interlock.verify.gaps import ENTRY, Gap

MAX_FINDINGS = 1000
_ROWS_IN_A_BREATH = 32
# While others append, so many times as long as a piece took is theirs alone: processor, database and disk.
_PAUSE = 3.0


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


class TileStore(Protocol):
    """What is asked of the database; the store says what it does."""

    async def full_tiles(self, log_id: uuid.UUID, tiles: Sequence[TileId]) -> Mapping[TileId, bytes]: ...


_SAID_OF_TEXTS = {
    "MISSING": "the words of the content {} are missing: it cannot be found by them",
    "OTHER": "the words of the content {} are not its own",
    "LEFT": "words of the content {} are left, which is gone",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One asker's way over a log."""

    name: LogName
    signed: SignedCheckpoint
    check: RangeCheck
    known: Known


class Appends(Protocol):
    """Tells whether anybody appends."""

    @property
    def commits(self) -> int: ...


class LogVerifier:
    """Reads all of a log, one piece at a time for all who ask."""

    def __init__(
        self,
        pieces: Pieces,
        tiles: TileStore,
        checkpoints: Checkpoints,
        explanations: Explanations,
        appends: Appends,
    ) -> None:
        self._pieces = pieces
        self._tiles = tiles
        self._checkpoints = checkpoints
        self._explanations = explanations
        self._appends = appends
        self._turn = asyncio.Lock()

    async def run(self, tenant: str, *, begin: int, end: int) -> AsyncIterator[Progress | Verdict]:
        """Progress as it comes, then the verdict; `end` 0 is the newest checkpoint's size."""
        name = await self._pieces.log_of(tenant)
        signed = await self._checkpoints.newest(tenant)
        size = signed.checkpoint.size
        end = min(end or size, size)
        check = RangeCheck(signed.checkpoint.origin, begin=begin)
        told = 0
        place = begin
        if name is not None:
            run = _Run(name=name, signed=signed, check=check, known={})
            async for piece, findings in self._findings(run, begin, end):
                told += len(findings)
                place = piece.end
                yield Progress(checked=place - begin, total=end - begin, findings=tuple(findings))
                if told >= MAX_FINDINGS:
                    break
        reached = check.has_tree and place == size and begin == 0
        wrong = check.root_finding(signed.checkpoint.root) if reached else None
        yield Verdict(
            checkpoint=signed,
            findings=(wrong,) if wrong is not None else (),
            root_checked=reached,
            complete=place >= end,
        )

    async def _findings(
        self, run: _Run, begin: int, end: int
    ) -> AsyncIterator[tuple[Piece, Sequence[Finding]]]:
        """Piece by piece; while one is looked at, the database is at the next."""
        log_id = run.name.log_id
        # In turns: however many ask, they leave the service to those who append.
        async with self._turn:
            piece = await self._pieces.read(log_id, begin, end)
        while piece is not None:
            async with self._turn:
                began, before = time.monotonic(), self._appends.commits
                findings, following = await asyncio.gather(
                    self._of_piece(run, piece), self._pieces.read(log_id, piece.end, end)
                )
                took = time.monotonic() - began
            yield piece, findings
            piece = following
            if self._appends.commits != before:
                await asyncio.sleep(took * _PAUSE)

    async def _of_piece(self, run: _Run, piece: Piece) -> Sequence[Finding]:
        rows = {row.leaf_index: row for row in piece.rows}
        findings = list(_shared_places(piece.rows)) if len(rows) < len(piece.rows) else []
        doubts: list[Doubt] = []
        for until in range(piece.begin + _ROWS_IN_A_BREATH, piece.end + _ROWS_IN_A_BREATH, _ROWS_IN_A_BREATH):
            doubts += run.check.take(rows, piece.contents, piece.removed, end=min(until, piece.end))
            # Those who append have their turn.
            await asyncio.sleep(0)
        findings += await self._of_doubts(run, piece, doubts)
        findings += await self._of_tiles(run)
        for index, part, flaw in piece.texts:
            findings.append(Finding(index=index, flaw=Flaw.TEXT, message=_SAID_OF_TEXTS[flaw].format(part)))
        return findings

    async def _of_doubts(self, run: _Run, piece: Piece, doubts: Sequence[Doubt]) -> Sequence[Finding]:
        findings: list[Finding] = []
        event_ids = [uuid.UUID(doubt.row.event_id) for doubt in doubts if doubt.row is not None]
        # Asked for last: what was removed since the rows were read is explained, or else still there.
        explained: frozenset[Gap] = frozenset()
        if event_ids:
            explained = await self._explanations.gaps(run.name, run.signed, event_ids, run.known)
        told_by = {
            piece.removed[doubt.place].explained_by
            for doubt in doubts
            if doubt.row is None and doubt.place in piece.removed
        }
        if told_by:
            explained |= await self._explanations.listed(run.name, run.signed, told_by, run.known)
        for number, (index, row) in enumerate(doubts, 1):
            if row is not None:
                contents = piece.contents.get(row.event_id, {})
                findings += row_findings(run.signed.checkpoint.origin, row, contents, explained)
            elif index not in piece.removed or (index, ENTRY) not in explained:
                message = "no entry stands here, and none says why"
                findings.append(Finding(index=index, flaw=Flaw.MISSING, message=message))
            if number % _ROWS_IN_A_BREATH == 0:
                await asyncio.sleep(0)
        return findings

    async def _of_tiles(self, run: _Run) -> Sequence[Finding]:
        wanted = dict(run.check.full_tiles())
        stored = await self._tiles.full_tiles(run.name.log_id, list(wanted)) if wanted else {}
        return [
            Finding(
                index=tile.first_leaf,
                flaw=Flaw.TILE,
                message=f"tile {tile.number} of tier {tile.tier} is not made of the entries",
            )
            for tile, hashes in wanted.items()
            if stored.get(tile) != hashes
        ]


def _shared_places(rows: Sequence[Row]) -> Iterator[Finding]:
    """No index over all months keeps two entries apart that claim one place."""
    counted = Counter(row.leaf_index for row in rows)
    for index, count in counted.items():
        if count > 1:
            yield Finding(index=index, flaw=Flaw.LEAF, message=f"{count} entries claim this place")
