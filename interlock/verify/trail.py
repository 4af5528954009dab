"""Verify a task's audit trail offline: with the trail, a pinned key and nothing else.

What a check cannot show is said in the report as plainly as what it can.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from interlock.verify.checkpoint import Checkpoint, open_checkpoint
from interlock.verify.entry import EntryError, Leaf, PartBytes, matches, parse_leaf
from interlock.verify.merkle import ProofError, leaf_hash, verify_consistency, verify_inclusion
from interlock.verify.note import NoteError, NoteKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailEntry:
    """One entry as handed over: leaf bytes, its place, the proof of it, and the parts that came along."""

    index: int
    leaf: bytes
    proof: tuple[bytes, ...]
    parts: Mapping[str, PartBytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """The entries of `task_id` in log order, and the signed note of the checkpoint all proofs lead to."""

    task_id: str
    checkpoint: str
    entries: tuple[TrailEntry, ...]


class Problem(StrEnum):
    """What is wrong with a trail."""

    SIGNATURE = "SIGNATURE"
    """The checkpoint is malformed, or not signed by the pinned key."""
    HISTORY = "HISTORY"
    """The tree shrank, or does not continue the one seen before."""
    LEAF = "LEAF"
    """A leaf cannot be read, or belongs to another log or task."""
    INCLUSION = "INCLUSION"
    """A leaf is not in the tree at the place claimed for it."""
    PAYLOAD = "PAYLOAD"
    """A payload part is not the one the leaf committed to."""
    ORDER = "ORDER"
    """Entries are out of order, or one came twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One failed check; `index` is the entry's place in the log, None when it concerns the whole log."""

    problem: Problem
    message: str
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailReport:
    """What a verification showed, what failed, and what no check of these bytes can exclude."""

    checkpoint: Checkpoint | None
    entries: int
    entries_included: int
    parts_matched: int
    parts_withheld: int
    consistent_from: int | None
    findings: tuple[Finding, ...]
    proven: tuple[str, ...]
    not_excluded: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return not self.findings

    @property
    def first_bad_index(self) -> int | None:
        """The lowest index in the log at which something is wrong."""
        return min((f.index for f in self.findings if f.index is not None), default=None)


def verify_trail(
    trail: Trail, *, key: NoteKey, pinned: Checkpoint | None = None, consistency: Sequence[bytes] = ()
) -> TrailReport:
    """Check `trail` against `key` and, where one was seen before, against the `pinned` checkpoint.

    `consistency` is the proof from the pinned size to the size of the trail's checkpoint.
    """
    findings: list[Finding] = []
    checkpoint = None
    consistent_from = None
    try:
        checkpoint = open_checkpoint(trail.checkpoint, key=key)
    except NoteError as error:
        findings.append(Finding(problem=Problem.SIGNATURE, message=str(error)))
    if checkpoint is not None and pinned is not None:
        try:
            require_continuation(checkpoint, pinned=pinned, consistency=consistency)
            consistent_from = pinned.size
        except ProofError as error:
            findings.append(Finding(problem=Problem.HISTORY, message=str(error)))

    included = matched = withheld = 0
    seen: set[str] = set()
    previous = -1
    for entry in trail.entries:
        if entry.index <= previous:
            message = f"index {entry.index} comes after index {previous}"
            findings.append(Finding(problem=Problem.ORDER, index=entry.index, message=message))
        previous = max(previous, entry.index)
        # Without a trusted root there is nothing to be included in; leaves and parts are still worth a look.
        if checkpoint is not None:
            refusal = _inclusion_refusal(entry, checkpoint)
            if refusal is None:
                included += 1
            else:
                findings.append(Finding(problem=Problem.INCLUSION, index=entry.index, message=refusal))
        try:
            leaf = _own_leaf(entry, task_id=trail.task_id, origin=key.name)
        except EntryError as error:
            findings.append(Finding(problem=Problem.LEAF, index=entry.index, message=str(error)))
            continue
        if leaf.event_id in seen:
            message = f"event {leaf.event_id} came twice"
            findings.append(Finding(problem=Problem.ORDER, index=entry.index, message=message))
        seen.add(leaf.event_id)
        bad = _bad_parts(entry, leaf)
        findings += [Finding(problem=Problem.PAYLOAD, index=entry.index, message=message) for message in bad]
        matched += len(entry.parts) - len(bad)
        withheld += sum(1 for commitment in leaf.parts if commitment.name not in entry.parts)

    return TrailReport(
        checkpoint=checkpoint,
        entries=len(trail.entries),
        entries_included=included,
        parts_matched=matched,
        parts_withheld=withheld,
        consistent_from=consistent_from,
        findings=tuple(findings),
        proven=_proven(checkpoint, key, included, matched, consistent_from),
        not_excluded=_not_excluded(pinned, withheld),
    )


def require_continuation(new: Checkpoint, *, pinned: Checkpoint, consistency: Sequence[bytes]) -> None:
    """Raise ProofError unless the log of `new` only appended to the log of `pinned`."""
    if new.origin != pinned.origin:
        raise ProofError(f"the checkpoint speaks of {new.origin!r}, the pinned one of {pinned.origin!r}")
    if pinned.size == 0:
        # Every tree continues the empty one; that shows nothing and needs no proof.
        return
    verify_consistency(
        old_size=pinned.size,
        old_root=pinned.root,
        new_size=new.size,
        new_root=new.root,
        proof=consistency,
    )


def _inclusion_refusal(entry: TrailEntry, checkpoint: Checkpoint) -> str | None:
    try:
        verify_inclusion(
            leaf=leaf_hash(entry.leaf),
            index=entry.index,
            size=checkpoint.size,
            proof=entry.proof,
            root=checkpoint.root,
        )
    except ProofError as error:
        return str(error)
    return None


def _own_leaf(entry: TrailEntry, *, task_id: str, origin: str) -> Leaf:
    leaf = parse_leaf(entry.leaf)
    if leaf.origin != origin:
        raise EntryError(f"the leaf belongs to log {leaf.origin!r}, not {origin!r}")
    if leaf.task_id != task_id:
        raise EntryError(f"the leaf belongs to task {leaf.task_id!r}, not {task_id!r}")
    return leaf


def _bad_parts(entry: TrailEntry, leaf: Leaf) -> list[str]:
    commitments = {c.name: c for c in leaf.parts}
    bad = []
    for name, part in sorted(entry.parts.items()):
        if name not in commitments:
            bad.append(f"part {name!r} came along, but the leaf commits to no such part")
        elif not matches(commitments[name], part):
            bad.append(f"part {name!r} is not the one the leaf committed to")
    return bad


def _proven(
    checkpoint: Checkpoint | None, key: NoteKey, included: int, matched: int, consistent_from: int | None
) -> tuple[str, ...]:
    if checkpoint is None:
        return ()
    lines = [f"the holder of {key} signed a log of {checkpoint.size} entries"]
    if included:
        lines.append(f"{included} entries stand in that log exactly as shown, at the places shown")
    if matched:
        lines.append(f"{matched} payload parts are byte for byte what their entries committed to")
    if consistent_from:
        lines.append(f"all {consistent_from} entries of the pinned checkpoint still stand, unchanged")
    return tuple(lines)


def _not_excluded(pinned: Checkpoint | None, withheld: int) -> tuple[str, ...]:
    lines = [
        "that further entries of this task exist in the log and were left out of the trail",
        "that the log shows other people another history: compare checkpoints with theirs",
        "that a producer recorded something untrue, or left something out: the log proves what was said",
    ]
    if pinned is None:
        lines.append(
            "that this key and this history are the wrong ones: nothing was pinned before this first look"
        )
    if withheld:
        lines.append(f"what {withheld} payload parts held: they were erased, or withheld from the reader")
    return tuple(lines)
