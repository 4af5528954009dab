"""What is missing with an explanation: a proven entry of the log that lists it."""

import uuid
from collections.abc import Collection, Sequence
from typing import Protocol, TypeAlias

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.event import StoredEntry
from audit_svc.proofs import IncompleteTreeError, Proofs
from audit_svc.sequence import LogName
from interlock.verify.entry import EntryError, PartBytes, matches, parse_leaf
from interlock.verify.gaps import REMOVED, Gap, GapError, explains, read_gaps
from interlock.verify.merkle import ProofError, leaf_hash, verify_inclusion

Known: TypeAlias = dict[uuid.UUID, frozenset[Gap]]
_REMEMBERED = 16


class EntryStore(Protocol):
    """What is asked of the store, which says what it does."""

    async def entry(
        self, log_id: uuid.UUID, event_id: uuid.UUID, *, with_bodies: bool
    ) -> StoredEntry | None: ...


class RemovedParts(Protocol):
    """The index of what was removed, which is believed in nothing else than where to look."""

    async def explained_by(
        self, log_id: uuid.UUID, event_ids: Collection[uuid.UUID]
    ) -> Sequence[uuid.UUID]: ...


class Explanations:
    """Reads the lists of what was removed, each only once its entry is proven to stand in the signed tree."""

    def __init__(
        self, removed: RemovedParts, entries: EntryStore, proofs: Proofs, checkpoints: Checkpoints
    ) -> None:
        self._removed = removed
        self._entries = entries
        self._proofs = proofs
        self._checkpoints = checkpoints

    async def gaps(
        self, name: LogName, signed: SignedCheckpoint, event_ids: Collection[uuid.UUID], known: Known
    ) -> frozenset[Gap]:
        """All that the log explains of what is missing of these events; more of others may be among it.

        `known` is the caller's, for one check: lists that were read and proven already.
        """
        told_by = await self._removed.explained_by(name.log_id, event_ids)
        return await self.listed(name, signed, told_by, known)

    async def listed(
        self, name: LogName, signed: SignedCheckpoint, told_by: Collection[uuid.UUID], known: Known
    ) -> frozenset[Gap]:
        """All that these events list, as far as they are what they are said to be."""
        gaps: frozenset[Gap] = frozenset()
        for event_id in told_by:
            if event_id not in known:
                if len(known) >= _REMEMBERED:
                    known.clear()
                known[event_id] = await self._read(name, signed, event_id)
            gaps |= known[event_id]
        return gaps

    async def _read(self, name: LogName, signed: SignedCheckpoint, event_id: uuid.UUID) -> frozenset[Gap]:
        """What the entry lists; nothing where it is not what it has to be."""
        entry = await self._entries.entry(name.log_id, event_id, with_bodies=True)
        if entry is None:
            return frozenset()
        if entry.index >= signed.checkpoint.size:
            # It came since the check began.
            signed = await self._checkpoints.newest(name.tenant)
        try:
            proof = await self._proofs.inclusion(name.log_id, entry.index, signed.checkpoint.size)
            verify_inclusion(
                leaf=leaf_hash(entry.leaf),
                index=entry.index,
                size=signed.checkpoint.size,
                proof=proof,
                root=signed.checkpoint.root,
            )
            return _listed(entry)
        except (ProofError, IncompleteTreeError, EntryError, GapError):
            return frozenset()


def _listed(entry: StoredEntry) -> frozenset[Gap]:
    leaf = parse_leaf(entry.leaf)
    contents = {part.name: PartBytes(salt=part.salt, body=part.body) for part in entry.parts}
    for commitment in leaf.parts:
        if commitment.name == REMOVED and explains(leaf) and REMOVED in contents:
            part = contents[REMOVED]
            return read_gaps(part.body) if matches(commitment, part) else frozenset()
    return frozenset()
