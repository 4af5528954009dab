"""Checkpoints: signed statements of how large a log's tree is and what its root is.

A log signs only what is committed, and only what continues everything it signed before; otherwise a database
that was rolled back or rewritten would make it sign two histories.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from audit_svc.errors import log_damaged
from audit_svc.proofs import IncompleteTreeError, Proofs
from audit_svc.sequence import LogName
from interlock.verify.checkpoint import Checkpoint, open_checkpoint
from interlock.verify.heads import HEADS, Heads
from interlock.verify.merkle import EMPTY_ROOT, ProofError
from interlock.verify.note import NoteError, NoteKey, signed_note
from interlock.verify.trail import require_continuation
from svc_kit.clock import Clock
from svc_kit.errors import DataLoss

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The committed state of a tree."""

    size: int
    root: bytes
    key: int
    """Number of the key that signs a checkpoint of this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint with its signed note."""

    checkpoint: Checkpoint
    note: str
    sign_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a log is: its size, and the size of its newest checkpoint (0 without one)."""

    name: LogName
    size: int
    signed_size: int


class CheckpointStore(Protocol):
    """What checkpoints need of the database."""

    async def log_of(self, tenant: str) -> LogName | None:
        """A tenant's log, if it has one."""
        ...

    async def standings(self) -> Sequence[Standing]:
        """How far every log is."""
        ...

    async def newest_key(self) -> int:
        """Number of the key with which a log would begin now."""
        ...

    async def head(self, log_id: uuid.UUID) -> Head:
        """The committed state of a tree."""
        ...

    async def newest_note(self, log_id: uuid.UUID) -> tuple[str, datetime] | None:
        """The newest signed note and its time."""
        ...

    async def note_at(self, log_id: uuid.UUID, size: int) -> tuple[str, datetime] | None:
        """The signed note of one size and its time."""
        ...

    async def save_note(self, log_id: uuid.UUID, signed: SignedCheckpoint) -> None:
        """Keep a checkpoint; one of the same size that is there already stays."""
        ...


class CheckpointArchive(Protocol):
    """A place outside the database that remembers what was signed."""

    async def latest(self, origin: str) -> str | None:
        """The newest signed note that it holds of a log."""
        ...

    async def add(self, signed: SignedCheckpoint) -> None:
        """Keep a checkpoint durably."""
        ...

    async def state(self, name: str, note: str, sign_time: datetime) -> None:
        """Keep a statement of all logs durably."""
        ...


class NoteSigner(Protocol):
    """Holds the private keys, by their numbers."""

    def key(self, origin: str, number: int) -> NoteKey:
        """A public key, under the name of a log."""
        ...

    def key_of(self, origin: str, note: str) -> NoteKey:
        """The one that a note names; raises NoteError."""
        ...

    def sign(self, text: bytes, number: int) -> bytes:
        """An Ed25519 signature."""
        ...


class Checkpoints:
    """Signs checkpoints, keeps them, and refuses to sign a history that does not continue what was signed."""

    def __init__(
        self,
        store: CheckpointStore,
        proofs: Proofs,
        signer: NoteSigner,
        clock: Clock,
        *,
        origin_prefix: str,
        archive: CheckpointArchive | None = None,
    ) -> None:
        self._store = store
        self._proofs = proofs
        self._signer = signer
        self._clock = clock
        self._origin_prefix = origin_prefix
        self._archive = archive
        # The newest checkpoint known of each log, wherever it was found; a log never goes behind it.
        self._seen: dict[str, Checkpoint] = {}
        # What the archive has: the newest checkpoint of each log, and the last statement of them all.
        self._archived: dict[str, Checkpoint] = {}
        self._stated: dict[str, Checkpoint] = {}
        self._looked: set[str] = set()
        self._damaged: set[str] = set()

    def origin(self, tenant: str) -> str:
        """The name of a tenant's log, also before it exists."""
        return f"{self._origin_prefix}/{tenant}"

    def key(self, tenant: str, number: int = 1) -> NoteKey:
        """A key that signs checkpoints of a tenant's log: of the first ones, or of those after a change."""
        return self._signer.key(self.origin(tenant), number)

    async def current_key(self, tenant: str) -> NoteKey:
        """The key that signs the newest checkpoint of a tenant's log."""
        signed = await self.newest(tenant)
        return self._signer.key_of(signed.checkpoint.origin, signed.note)

    async def newest(self, tenant: str) -> SignedCheckpoint:
        """A checkpoint of all that is committed; signed now when the log grew since the last one.

        Raises DataLoss when the stored tree does not continue what was signed.
        """
        name = await self._store.log_of(tenant)
        if name is None:
            empty = Checkpoint(origin=self.origin(tenant), size=0, root=EMPTY_ROOT)
            return self._signed(empty, await self._store.newest_key())
        head = await self._store.head(name.log_id)
        current = Checkpoint(origin=name.origin, size=head.size, root=head.root)
        await self._require_continues(name, current, await self._seen_before(name.origin))
        if head.size == 0:
            return self._signed(current, head.key)
        stored = await self._store.newest_note(name.log_id)
        if stored is not None:
            newest = self._open(name.origin, *stored)
            # A larger one was signed by another replica since the head was read.
            if newest.checkpoint == current or newest.checkpoint.size > current.size:
                return newest
            await self._require_continues(name, current, newest.checkpoint)
        signed = self._signed(current, head.key)
        await self._store.save_note(name.log_id, signed)
        self._seen[name.origin] = current
        return signed

    async def at(self, tenant: str, size: int) -> SignedCheckpoint | None:
        """The checkpoint of exactly that size, if one was signed."""
        name = await self._store.log_of(tenant)
        stored = await self._store.note_at(name.log_id, size) if name is not None else None
        return self._open(name.origin, *stored) if name is not None and stored is not None else None

    async def publish(self) -> None:
        """Sign every log that grew and archive what is new; one damaged log does not hold up the others."""
        for standing in await self._store.standings():
            origin = standing.name.origin
            try:
                await self._publish_one(standing)
            except DataLoss as error:
                if origin not in self._damaged:
                    log.critical("log_damaged", origin=origin, error=error.message)
                self._damaged.add(origin)
            else:
                self._damaged.discard(origin)
        if self._archive is not None and self._archived != self._stated:
            await self._state(self._archive)

    async def _state(self, archive: CheckpointArchive) -> None:
        """One statement of all logs, those that are damaged with the last that was signed of them."""
        now, number = self._clock.now(), await self._store.newest_key()
        stated = dict(self._archived)
        time = now.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        heads = Heads(name=self.origin(HEADS), time=time, logs=stated)
        key, signature = self._signer.key(heads.name, number), self._signer.sign(heads.text.encode(), number)
        await archive.state(heads.name, str(signed_note(heads.text, key=key, signature=signature)), now)
        self._stated = stated

    async def _publish_one(self, standing: Standing) -> None:
        name = standing.name
        seen = await self._seen_before(name.origin)
        went_back = seen is not None and standing.size < seen.size
        if standing.size > standing.signed_size or went_back:
            await self.newest(name.tenant)
        if self._archive is not None and standing.size > self._archived_size(name.origin):
            stored = await self._store.newest_note(name.log_id)
            if stored is not None:
                signed = self._open(name.origin, *stored)
                await self._archive.add(signed)
                self._archived[name.origin] = signed.checkpoint

    def _archived_size(self, origin: str) -> int:
        archived = self._archived.get(origin)
        return archived.size if archived is not None else 0

    async def _seen_before(self, origin: str) -> Checkpoint | None:
        if origin not in self._looked and self._archive is not None:
            note = await self._archive.latest(origin)
            if note is not None:
                archived = self._open(origin, note, self._clock.now()).checkpoint
                if origin not in self._seen or self._seen[origin].size < archived.size:
                    self._seen[origin] = archived
                self._archived[origin] = archived
            self._looked.add(origin)
        return self._seen.get(origin)

    async def _require_continues(
        self, name: LogName, current: Checkpoint, earlier: Checkpoint | None
    ) -> None:
        """Raise DataLoss unless `current` only appended to what was signed `earlier`."""
        if earlier is None or earlier == current:
            return
        try:
            grown = 0 < earlier.size < current.size
            proof = await self._proofs.consistency(name.log_id, earlier.size, current.size) if grown else ()
            require_continuation(current, pinned=earlier, consistency=proof)
        except (ProofError, IncompleteTreeError) as error:
            raise log_damaged(name.origin, str(error)) from error

    def _open(self, origin: str, note: str, sign_time: datetime) -> SignedCheckpoint:
        try:
            checkpoint = open_checkpoint(note, key=self._signer.key_of(origin, note))
        except NoteError as error:
            raise log_damaged(origin, str(error)) from error
        return SignedCheckpoint(checkpoint=checkpoint, note=note, sign_time=sign_time)

    def _signed(self, checkpoint: Checkpoint, number: int) -> SignedCheckpoint:
        signature = self._signer.sign(checkpoint.text.encode(), number)
        key = self._signer.key(checkpoint.origin, number)
        note = signed_note(checkpoint.text, key=key, signature=signature)
        return SignedCheckpoint(checkpoint=checkpoint, note=str(note), sign_time=self._clock.now())
