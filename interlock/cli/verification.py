"""Fetches a task's trail and verifies it with nothing but the pinned key and checkpoint."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interlock.audit.v1 import audit_service_pb2, entry_pb2
from interlock.cli.escaping import one_line
from interlock.cli.problems import CliError
from interlock.client.client import Client
from interlock.verify import (
    EntryError,
    Leaf,
    NoteError,
    NoteKey,
    PartBytes,
    PinError,
    PinStore,
    ProofError,
    Rotation,
    RotationError,
    Trail,
    TrailEntry,
    TrailReport,
    followed,
    leaf_hash,
    parse_checkpoint,
    parse_leaf,
    parse_note,
    read_rotation,
    verify_inclusion,
    verify_trail,
)

_PAGE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """The report on a trail, and what this reader knew of the log before."""

    report: TrailReport
    kinds: Mapping[str, int]  # how many entries of each type the trail holds
    key: NoteKey
    first_use: bool
    key_changed: bool  # the log led from the pinned key to another one
    refused_pin: str  # why the checkpoint was not pinned; empty when it was

    @property
    def ok(self) -> bool:
        """Whether everything held, the pins included, of a trail that is not empty."""
        return self.report.ok and not self.refused_pin and self.report.entries > 0


async def verify_task(suite: Client, task_id: str, pins_file: Path) -> Verified:
    """Verify one task's trail and pin its checkpoint. Raises InterlockError or CliError."""
    return await verify(suite, await fetch_trail(suite, task_id), pins_file)


async def verify(suite: Client, trail: Trail, pins_file: Path) -> Verified:
    """Verify a trail; the service is asked for its key, and for the way from the pinned checkpoint."""
    pins = PinStore(pins_file)
    served = await suite.call(suite.audit.GetPublicKeys, audit_service_pb2.GetPublicKeysRequest())
    try:
        offered = NoteKey.parse(served.verifier_key)
        pinned = pins.get(offered.name)
    except (NoteError, PinError) as error:
        raise CliError(str(error), f"Look at {pins_file}, and at who runs the audit service.") from None
    # The key seen first is the one that counts, whatever the service offers now, until itself names another.
    rotations: list[Rotation] = []
    if pinned is not None and pinned.key != offered:
        rotations = await _rotations(suite, served.changes, trail)
    key = followed(pinned.key, rotations) if pinned is not None else offered
    proof: tuple[bytes, ...] = ()
    if pinned is not None and pinned.checkpoint.size > 0:
        size = _claimed_size(trail)
        if size > pinned.checkpoint.size:
            proof = await _consistency(suite, pinned.checkpoint.size, size)
    report = verify_trail(
        trail, key=key, pinned=pinned.checkpoint if pinned is not None else None, consistency=proof
    )
    refused = ""
    if report.ok:
        try:
            pins.advance(key=key, note=trail.checkpoint, consistency=proof, rotations=rotations)
        except PinError as error:
            refused = str(error)
    kinds = Counter(leaf.type for leaf in readable_leaves(trail))
    return Verified(
        report=report,
        kinds=kinds,
        key=key,
        first_use=pinned is None,
        key_changed=pinned is not None and key != pinned.key,
        refused_pin=refused,
    )


def readable_leaves(trail: Trail) -> Iterator[Leaf]:
    """What the entries say, as far as they are entries at all."""
    for entry in trail.entries:
        with contextlib.suppress(EntryError):
            yield parse_leaf(entry.leaf)


def report_lines(verified: Verified) -> Iterator[str]:
    """The report for people."""
    report = verified.report
    if report.entries == 0:
        yield "Nothing to verify: the log shows no entries of this task."
    else:
        yield f"{report.entries} entries: {kinds_text(verified)}"
    for line in report.proven:
        yield f"  ✓ {line}"
    for finding in report.findings:
        place = f"entry #{finding.index}: " if finding.index is not None else ""
        yield f"  ✗ {finding.problem}: {place}{one_line(finding.message)}"
    if verified.refused_pin:
        yield f"  ✗ PIN: {verified.refused_pin}"
    if verified.first_use:
        yield f"  pinned on this first look: {verified.key}"
    if verified.key_changed:
        yield f"  ✓ the pinned key has signed its successor, pinned now: {verified.key}"
    yield "Not excluded by this check:"
    for line in report.not_excluded:
        yield f"  - {line}"
    yield "VERIFIED" if verified.ok else "NOT VERIFIED"


def kinds_text(verified: Verified) -> str:
    """For example `1 PROMPT, 3 TOOL_CALL`."""
    return ", ".join(f"{number} {one_line(kind)}" for kind, number in verified.kinds.items())


def report_json(verified: Verified) -> dict[str, Any]:
    """The report for programs."""
    report = verified.report
    return {
        "verified": verified.ok,
        "entries": report.entries,
        "entries_by_type": dict(verified.kinds),
        "entries_included": report.entries_included,
        "parts_matched": report.parts_matched,
        "parts_withheld": report.parts_withheld,
        "tree_size": report.checkpoint.size if report.checkpoint is not None else None,
        "consistent_from": report.consistent_from,
        "key": str(verified.key),
        "pinned_now": verified.first_use,
        "key_changed": verified.key_changed,
        "findings": [
            {"problem": str(each.problem), "index": each.index, "message": each.message}
            for each in report.findings
        ],
        "pin_refused": verified.refused_pin,
        "not_excluded": list(report.not_excluded),
    }


async def fetch_trail(suite: Client, task_id: str) -> Trail:
    """Every entry of a task with proof and payloads, as the service hands them out. Raises InterlockError."""
    entries: list[TrailEntry] = []
    token = ""
    while True:
        page = await suite.call(
            suite.audit.GetAuditTrail,
            audit_service_pb2.GetAuditTrailRequest(
                task_id=task_id,
                include_payloads=True,
                page_size=_PAGE,
                page_token=token,
                reason="the trail is verified offline",
            ),
        )
        entries += map(_entry, page.entries, page.proofs)
        token = page.next_page_token
        if not token:
            return Trail(task_id=task_id, checkpoint=page.checkpoint.note, entries=tuple(entries))


async def _rotations(
    suite: Client, changes: Sequence[audit_service_pb2.KeyChange], trail: Trail
) -> list[Rotation]:
    """The changes of key that entries in the tree of the trail's checkpoint tell of, and no others.

    Whether that tree counts is said by its signature, which is looked at with the key that these lead to.
    """
    try:
        checkpoint = parse_checkpoint(parse_note(trail.checkpoint).text)
    except NoteError:
        return []
    found = []
    for change in changes:
        if change.index >= checkpoint.size:
            continue
        read = await suite.call(
            suite.audit.GetEntry, audit_service_pb2.GetEntryRequest(event_id=change.event_id)
        )
        asked = audit_service_pb2.GetInclusionProofRequest(index=change.index, tree_size=checkpoint.size)
        proof = (await suite.call(suite.audit.GetInclusionProof, asked)).proof
        with contextlib.suppress(ProofError, EntryError, RotationError):
            verify_inclusion(
                index=change.index,
                size=checkpoint.size,
                leaf=leaf_hash(read.entry.leaf),
                proof=tuple(proof.hashes),
                root=checkpoint.root,
            )
            rotation = read_rotation(parse_leaf(read.entry.leaf))
            found += [rotation] if rotation is not None else []
    return found


def _entry(entry: entry_pb2.Entry, proof: entry_pb2.InclusionProof) -> TrailEntry:
    return TrailEntry(
        index=entry.index,
        leaf=entry.leaf,
        proof=tuple(proof.hashes),
        parts={part.part: PartBytes(salt=part.salt, body=part.body) for part in entry.payloads if part.salt},
    )


def _claimed_size(trail: Trail) -> int:
    """The size that the trail's checkpoint claims; what it is worth is for the verification to say."""
    try:
        return parse_checkpoint(parse_note(trail.checkpoint).text).size
    except NoteError:
        return 0


async def _consistency(suite: Client, first: int, second: int) -> tuple[bytes, ...]:
    answer = await suite.call(
        suite.audit.GetConsistencyProof,
        audit_service_pb2.GetConsistencyProofRequest(first_tree_size=first, second_tree_size=second),
    )
    return tuple(answer.hashes)
