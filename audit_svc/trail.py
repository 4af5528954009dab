"""Reading: entries with the proofs that let a stranger check them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from audit_svc.checkpoints import Checkpoints, SignedCheckpoint
from audit_svc.errors import entry_not_found, log_damaged
from audit_svc.event import RemovedEntry, StoredEntry
from audit_svc.proofs import IncompleteTreeError, Proofs
from audit_svc.sequence import LogName
from interlock.verify.entry import EntryError, parse_leaf
from interlock.verify.gaps import REMOVED, explains
from svc_kit.errors import Violation, invalid

# A page ends before it outgrows the message limit; one entry always fits.
MAX_PAGE_BYTES = 3 * 1024 * 1024
_PROOF_BYTES = 2048
_RANGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenEntry:
    """An entry, and the hashes that lead from its leaf to the root of a checkpoint."""

    entry: StoredEntry
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailPage:
    """Entries of a task in log order; `next_index` is where the next page begins, None on the last one."""

    entries: tuple[ProvenEntry, ...]
    checkpoint: SignedCheckpoint
    next_index: int | None


class EntryStore(Protocol):
    """What reading needs of the database."""

    async def log_of(self, tenant: str) -> LogName | None:
        """A tenant's log, if it has one."""
        ...

    async def entry(self, log_id: uuid.UUID, event_id: uuid.UUID, *, with_bodies: bool) -> StoredEntry | None:
        """One entry by its event id."""
        ...

    async def leaf_hash(self, log_id: uuid.UUID, index: int) -> bytes | None:
        """The leaf hash at an index."""
        ...

    async def task_entry_sizes(
        self, log_id: uuid.UUID, task_id: uuid.UUID, *, begin: int, end: int, limit: int
    ) -> Sequence[tuple[int, int, int]]:
        """(index, bytes of leaf, bytes of parts) of a task's entries in order, from `begin` below `end`."""
        ...

    async def entry_sizes(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[tuple[int, int, int]]:
        """(index, bytes of leaf, bytes of parts) of entries in order, from `begin` below `end`."""
        ...

    async def removed_entries(self, log_id: uuid.UUID, begin: int, end: int) -> Sequence[RemovedEntry]:
        """What is left of removed entries in order, from index `begin` below `end`."""
        ...

    async def entries_between(
        self, log_id: uuid.UUID, begin: int, end: int, *, with_bodies: bool
    ) -> Sequence[StoredEntry]:
        """Entries in order, from index `begin` below `end`."""
        ...

    async def task_entries(
        self, log_id: uuid.UUID, task_id: uuid.UUID, *, begin: int, end: int, with_bodies: bool
    ) -> Sequence[StoredEntry]:
        """A task's entries in order, from index `begin` below `end`."""
        ...


class AuditReader:
    """Reads one tenant's log at a time; the tenant comes from the caller's token."""

    def __init__(self, store: EntryStore, proofs: Proofs, checkpoints: Checkpoints) -> None:
        self._store = store
        self._proofs = proofs
        self._checkpoints = checkpoints

    async def entry(
        self, tenant: str, event_id: uuid.UUID, *, with_bodies: bool
    ) -> tuple[ProvenEntry, SignedCheckpoint]:
        """An entry, its proof, and a checkpoint that covers it."""
        name = await self._store.log_of(tenant)
        entry = await self._store.entry(name.log_id, event_id, with_bodies=with_bodies) if name else None
        if name is None or entry is None:
            raise entry_not_found(f"with the event id {event_id}")
        signed = await self._checkpoints.newest(tenant)
        return (await self.prove(name, [entry], signed))[0], signed

    async def trail(
        self, tenant: str, task_id: uuid.UUID, *, limit: int, begin: int, size: int, with_bodies: bool
    ) -> TrailPage:
        """A page of a task's entries from index `begin`; `size` is that of the first page, or 0."""
        name = await self._store.log_of(tenant)
        signed = await (self._checkpoints.at(tenant, size) if size else self._checkpoints.newest(tenant))
        if signed is None:
            raise entry_not_found(f"page of the checkpoint of size {size}")
        if name is None:
            return TrailPage(entries=(), checkpoint=signed, next_index=None)
        end = signed.checkpoint.size
        sizes = await self._store.task_entry_sizes(
            name.log_id, task_id, begin=begin, end=end, limit=limit + 1
        )
        fitting = how_many_fit(sizes[:limit], with_bodies=with_bodies)
        next_index = sizes[fitting][0] if fitting < len(sizes) else None
        entries = await self._store.task_entries(
            name.log_id,
            task_id,
            begin=begin,
            end=end if next_index is None else next_index,
            with_bodies=with_bodies,
        )
        proven = await self.prove(name, entries, signed)
        return TrailPage(entries=tuple(proven), checkpoint=signed, next_index=next_index)

    async def between(
        self, tenant: str, begin: int, end: int, *, with_bodies: bool
    ) -> Sequence[StoredEntry | RemovedEntry]:
        """At least one entry, from index `begin` on, below `end`; raises DataLoss when one is missing.

        Removed ones are among them, with what the database claims of them; the lists by which entries of the
        log explain that come along in any case.
        """
        name = await self._store.log_of(tenant)
        if name is None:
            raise entry_not_found(f"at index {begin}")
        until = min(begin + _RANGE, end)
        sizes = await self._store.entry_sizes(name.log_id, begin, until)
        removed: Sequence[RemovedEntry] = ()
        if len(sizes) < until - begin:
            removed = await self._store.removed_entries(name.log_id, begin, until)
            known = {each.index: (each.index, 0, 0) for each in removed}
            sizes = sorted((known | {size[0]: size for size in sizes}).values())
        fitting = how_many_fit(sizes, with_bodies=with_bodies)
        indexes = [size[0] for size in sizes[:fitting]]
        if not indexes or indexes != list(range(begin, begin + len(indexes))):
            raise log_damaged(name.origin, f"an entry is missing from index {begin} on")
        until = begin + len(indexes)
        entries = await self._store.entries_between(name.log_id, begin, until, with_bodies=with_bodies)
        if not with_bodies:
            entries = [await self._with_list(name, each) for each in entries]
        found: dict[int, StoredEntry | RemovedEntry] = {each.index: each for each in removed}
        found |= {each.index: each for each in entries}
        if not found.keys() >= set(indexes):
            # Removed since its size was read.
            return await self.between(tenant, begin, end, with_bodies=with_bodies)
        return [found[index] for index in indexes]

    async def _with_list(self, name: LogName, entry: StoredEntry) -> StoredEntry:
        """The list of what was removed is no secret, and explains to everybody why something is missing."""
        if not _explains(entry.leaf):
            return entry
        whole = await self._store.entry(name.log_id, entry.event_id, with_bodies=True)
        lists = {part.name: part for part in whole.parts if part.name == REMOVED} if whole else {}
        return replace(entry, parts=tuple(lists.get(part.name, part) for part in entry.parts))

    async def inclusion(self, tenant: str, index: int, size: int) -> tuple[bytes, int, tuple[bytes, ...]]:
        """(leaf hash, tree size, proof) of the entry at `index`; size 0 stands for all that is committed."""
        name, newest = await self._newest_size(tenant)
        leaf = await self._store.leaf_hash(name.log_id, index) if name and index < newest else None
        if name is None or leaf is None:
            raise entry_not_found(f"at index {index}")
        size = size or newest
        _require_size(size, newest, "tree_size")
        if index >= size:
            raise invalid([Violation("tree_size", f"the entry came after the first {size}")])
        try:
            return leaf, size, await self._proofs.inclusion(name.log_id, index, size)
        except IncompleteTreeError as error:
            raise log_damaged(name.origin, str(error)) from error

    async def receipt(self, tenant: str, index: int) -> tuple[tuple[bytes, ...], SignedCheckpoint]:
        """The proof of the entry at `index`, and the newest checkpoint, to whose root it leads."""
        name = await self._store.log_of(tenant)
        signed = await self._checkpoints.newest(tenant)
        if name is None or index >= signed.checkpoint.size:
            raise entry_not_found(f"at index {index}")
        try:
            return await self._proofs.inclusion(name.log_id, index, signed.checkpoint.size), signed
        except IncompleteTreeError as error:
            raise log_damaged(name.origin, str(error)) from error

    async def consistency(self, tenant: str, old_size: int, new_size: int) -> tuple[int, tuple[bytes, ...]]:
        """(larger size, proof) that the log of `old_size` was only appended to; 0 is the newest."""
        name, newest = await self._newest_size(tenant)
        new_size = new_size or newest
        _require_size(new_size, newest, "second_tree_size")
        _require_size(old_size, new_size, "first_tree_size")
        if name is None or old_size == new_size:
            return new_size, ()
        try:
            return new_size, await self._proofs.consistency(name.log_id, old_size, new_size)
        except IncompleteTreeError as error:
            raise log_damaged(name.origin, str(error)) from error

    async def _newest_size(self, tenant: str) -> tuple[LogName | None, int]:
        name = await self._store.log_of(tenant)
        signed = await self._checkpoints.newest(tenant)
        return name, signed.checkpoint.size

    async def prove(
        self, name: LogName, entries: Sequence[StoredEntry], signed: SignedCheckpoint
    ) -> list[ProvenEntry]:
        """Each entry with its proof against a checkpoint that covers it."""
        indexes = [entry.index for entry in entries]
        try:
            proofs = await self._proofs.inclusions(name.log_id, indexes, signed.checkpoint.size)
        except IncompleteTreeError as error:
            raise log_damaged(name.origin, str(error)) from error
        return [ProvenEntry(entry=entry, proof=proof) for entry, proof in zip(entries, proofs, strict=True)]


def how_many_fit(sizes: Sequence[tuple[int, int, int]], *, with_bodies: bool) -> int:
    """How many of (index, bytes of leaf, bytes of parts) make one page; at least one of those there are."""
    total = 0
    for count, (_, leaf, bodies) in enumerate(sizes):
        total += _PROOF_BYTES + leaf + (bodies if with_bodies else 0)
        if total > MAX_PAGE_BYTES and count:
            return count
    return len(sizes)


def _explains(leaf: bytes) -> bool:
    try:
        # What is not the log's own need not be read as a whole.
        return b'"producer":"audit"' in leaf and explains(parse_leaf(leaf))
    except EntryError:
        return False  # whoever verifies it will say what it is


def _require_size(size: int, newest: int, field: str) -> None:
    if size > newest:
        raise invalid([Violation(field, f"must be at most {newest}")])
