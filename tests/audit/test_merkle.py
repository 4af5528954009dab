"""The tree as the service builds it, judged by the verifier that strangers use."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_svc.merkle import (
    TILE_WIDTH,
    Frontier,
    ProofPlan,
    TileId,
    TileReader,
    plan_consistency,
    plan_inclusion,
    tile_root,
)
from interlock.verify.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from tests.verify.test_merkle import KNOWN_LEAVES, KNOWN_ROOTS

LEAVES = [leaf_hash(i.to_bytes(4, "big")) for i in range(70_000)]


def all_tiles(size: int) -> dict[TileId, list[bytes]]:
    """Every tile of the tree over the first `size` leaves, full or not."""
    tiles: dict[TileId, list[bytes]] = {}
    tier, hashes = 0, LEAVES[:size]
    while hashes:
        chunks = [hashes[i : i + TILE_WIDTH] for i in range(0, len(hashes), TILE_WIDTH)]
        tiles |= {TileId(tier, number): chunk for number, chunk in enumerate(chunks)}
        hashes = [tile_root(chunk) for chunk in chunks if len(chunk) == TILE_WIDTH]
        tier += 1
    return tiles


def resolve(plan: ProofPlan, size: int) -> tuple[bytes, ...]:
    tiles = all_tiles(size)
    # Only what the plan names may be needed: the service reads nothing else.
    return plan.resolve(TileReader({tile: tiles[tile] for tile in plan.tiles()}))


def test_the_known_trees_have_their_known_roots() -> None:
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for leaf, root in zip(KNOWN_LEAVES, KNOWN_ROOTS, strict=True):
        frontier = frontier.extended([leaf_hash(leaf)])
        assert frontier.root().hex() == root


@settings(deadline=None)
@given(size=st.integers(1, 700), data=st.data())
def test_any_leaf_of_any_tree_has_an_inclusion_proof(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    # The tree may have grown since the size that is asked about.
    grown = data.draw(st.integers(size, size + 600))
    proof = resolve(plan_inclusion(index, size), grown)
    root = Frontier().extended(LEAVES[:size]).root()
    verify_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root=root)


@settings(deadline=None)
@given(size=st.integers(1, 700), data=st.data())
def test_any_two_sizes_have_a_consistency_proof(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size))
    grown = data.draw(st.integers(size, size + 600))
    before = Frontier().extended(LEAVES[:old])
    after = before.extended(LEAVES[old:size])
    verify_consistency(
        old_size=old,
        old_root=before.root(),
        new_size=size,
        new_root=after.root(),
        proof=resolve(plan_consistency(old, size), grown),
    )


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 70_000])
def test_proofs_hold_across_three_tiers_of_tiles(size: int) -> None:
    root = Frontier().extended(LEAVES[:size]).root()
    tiles = TileReader(all_tiles(size))
    for index in (0, 1, 255, 256, 32_768, 65_534, size - 1):
        proof = plan_inclusion(index, size).resolve(tiles)
        verify_inclusion(leaf=LEAVES[index], index=index, size=size, proof=proof, root=root)
    for old in (1, 255, 256, 257, 32_768, 65_535):
        verify_consistency(
            old_size=old,
            old_root=Frontier().extended(LEAVES[:old]).root(),
            new_size=size,
            new_root=root,
            proof=plan_consistency(old, size).resolve(tiles),
        )


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 300), max_size=6))
def test_batches_give_the_tree_that_single_appends_give(sizes: list[int]) -> None:
    frontier, total = Frontier(), 0
    for size in sizes:
        stored = Frontier.from_bytes(frontier.size, frontier.to_bytes())
        frontier = stored.extended(LEAVES[total : total + size])
        total += size
    assert frontier == Frontier().extended(LEAVES[:total])


@pytest.mark.parametrize(("size", "data"), [(1, b""), (2, bytes(64)), (3, bytes(63)), (0, bytes(32))])
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match="hashes"):
        Frontier.from_bytes(size, data)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 4)])
def test_no_inclusion_is_planned_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        plan_inclusion(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 4), (5, 4)])
def test_no_consistency_is_planned_from_nothing_or_backwards(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="no consistency proof"):
        plan_consistency(old, new)
