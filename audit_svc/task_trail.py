"""The trail of a task as steps, each with how much of it holds: every entry is checked anew."""

import asyncio
import uuid
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.explanations import Explanations
from audit_svc.pieces import ContentStore, promises
from audit_svc.proofs import IncompleteTreeError, Proofs
from audit_svc.sequence import LogName
from audit_svc.task_steps import ProofState, Step, TrailEntry, steps_of
from audit_svc.verification import Finding, Flaw, Promises, Row, row_findings
from interlock.verify.entry import EntryError, parse_leaf
from interlock.verify.gaps import Gap
from interlock.verify.merkle import ProofError, leaf_hash, verify_inclusion

MAX_ENTRIES = 5_000
"""So many can be told in one message, whatever they are called."""
_ROWS_AT_A_TIME = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTrail:
    """The steps, what is wrong with them, what they were held against; `complete` unless there are more."""

    steps: Sequence[Step]
    findings: Sequence[Finding]
    checkpoint: SignedCheckpoint
    complete: bool


class RowStore(ContentStore, Protocol):
    """What is asked of the store, which says what each does."""

    async def log_of(self, tenant: str) -> LogName | None: ...
    async def task_rows(
        self, log_id: uuid.UUID, task_id: uuid.UUID, *, begin: int, end: int, limit: int
    ) -> Sequence[Row]: ...


class TaskTrails:
    """Holds each entry of a task against the signed root, its columns and its contents against its leaf."""

    def __init__(
        self, store: RowStore, proofs: Proofs, checkpoints: Checkpoints, explanations: Explanations
    ) -> None:
        self._store = store
        self._proofs = proofs
        self._checkpoints = checkpoints
        self._explanations = explanations

    async def read(self, tenant: str, task_id: uuid.UUID) -> TaskTrail:
        """The first MAX_ENTRIES entries that the newest checkpoint covers."""
        name = await self._store.log_of(tenant)
        signed = await self._checkpoints.newest(tenant)
        entries: list[TrailEntry] = []
        findings: list[Finding] = []
        begin, complete = 0, name is None
        while name is not None and len(entries) + len(findings) < MAX_ENTRIES:
            size = signed.checkpoint.size
            rows = await self._store.task_rows(
                name.log_id, task_id, begin=begin, end=size, limit=_ROWS_AT_A_TIME
            )
            checked, wrong = await self._checked(name, signed, rows)
            entries += checked
            findings += wrong
            complete = len(rows) < _ROWS_AT_A_TIME
            if complete:
                break
            begin = rows[-1].leaf_index + 1
        return TaskTrail(steps=steps_of(entries), findings=findings, checkpoint=signed, complete=complete)

    async def _checked(
        self, name: LogName, signed: SignedCheckpoint, rows: Sequence[Row]
    ) -> tuple[list[TrailEntry], list[Finding]]:
        event_ids = [row.event_id for row in rows]
        stored = await promises(self._store, name.log_id, event_ids)
        # Asked for last: what was removed since the rows were read is explained, or else still there.
        explained = await self._explanations.gaps(name, signed, list(map(uuid.UUID, event_ids)), {})
        size = signed.checkpoint.size
        try:
            proofs = await self._proofs.inclusions(name.log_id, [row.leaf_index for row in rows], size)
        except IncompleteTreeError:
            # No proof is made of a tree with holes: nothing of it is proven.
            proofs = [()] * len(rows)
        held = zip(rows, proofs, strict=True)
        checks = [(row, proof, stored.get(row.event_id, {})) for row, proof in held]
        # In a thread: it is nothing but computing.
        return await asyncio.to_thread(_check, checks, signed, explained)


def _check(
    checks: Sequence[tuple[Row, tuple[bytes, ...], Promises]],
    signed: SignedCheckpoint,
    explained: AbstractSet[Gap],
) -> tuple[list[TrailEntry], list[Finding]]:
    entries, findings = [], []
    for row, proof, stored in checks:
        wrong = list(row_findings(signed.checkpoint.origin, row, stored, explained))
        if not _included(row, proof, signed):
            message = "the leaf is not in the signed tree at its place"
            wrong.append(Finding(index=row.leaf_index, flaw=Flaw.LEAF, message=message))
        findings += wrong
        try:
            leaf = parse_leaf(row.leaf)
        except EntryError:
            continue  # among the findings; what it says of a step nobody can tell
        removed = any(gap.leaf_index == row.leaf_index for gap in explained) and len(stored) < len(leaf.parts)
        intact = ProofState.CONTENT_REMOVED if removed else ProofState.PROVEN
        entries.append(
            TrailEntry(index=row.leaf_index, leaf=leaf, state=ProofState.BROKEN if wrong else intact)
        )
    return entries, findings


def _included(row: Row, proof: tuple[bytes, ...], signed: SignedCheckpoint) -> bool:
    try:
        verify_inclusion(
            leaf=leaf_hash(row.leaf),
            index=row.leaf_index,
            size=signed.checkpoint.size,
            proof=proof,
            root=signed.checkpoint.root,
        )
    except ProofError:
        return False
    return True
