"""Proofs over a stored tree."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from audit_svc.merkle import ProofPlan, TileId, TileReader, plan_consistency, plan_inclusion


class IncompleteTreeError(Exception):
    """Stored hashes of a tree are missing: somebody removed rows."""


class TileStore(Protocol):
    """What proofs need of the database."""

    async def tiles(
        self, log_id: uuid.UUID, tiles: Collection[TileId], size: int
    ) -> Mapping[TileId, Sequence[bytes]]:
        """The tiles of the tree, with at least the hashes that they have at `size` leaves.

        Raises IncompleteTreeError when one of them is not there.
        """
        ...


class Proofs:
    """Inclusion and consistency proofs, for any size a tree ever had."""

    def __init__(self, store: TileStore) -> None:
        self._store = store

    async def inclusion(self, log_id: uuid.UUID, index: int, size: int) -> tuple[bytes, ...]:
        """That the entry at `index` is in the tree of `size` entries; index < size <= the tree's size."""
        return (await self._resolve(log_id, [plan_inclusion(index, size)], size))[0]

    async def inclusions(
        self, log_id: uuid.UUID, indexes: Sequence[int], size: int
    ) -> list[tuple[bytes, ...]]:
        """Several proofs against one size, from one read of the tiles that they share."""
        return await self._resolve(log_id, [plan_inclusion(index, size) for index in indexes], size)

    async def consistency(self, log_id: uuid.UUID, old_size: int, new_size: int) -> tuple[bytes, ...]:
        """That the tree of `new_size` entries begins with that of `old_size`; 0 < old_size <= new_size."""
        return (await self._resolve(log_id, [plan_consistency(old_size, new_size)], new_size))[0]

    async def _resolve(
        self, log_id: uuid.UUID, plans: Sequence[ProofPlan], size: int
    ) -> list[tuple[bytes, ...]]:
        wanted = set().union(*(plan.tiles() for plan in plans))
        reader = TileReader(await self._store.tiles(log_id, wanted, size) if wanted else {})
        return [plan.resolve(reader) for plan in plans]
