"""Proof checks against published vectors, the RFC's own trees, and a tree built the slow way."""

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.verify.merkle import EMPTY_ROOT, ProofError, leaf_hash, verify_consistency, verify_inclusion
from tests.verify.slow_log import consistency, inclusion, root

VECTORS = Path(__file__).parents[2].parent / "shared" / "data" / "merkle_vectors" / "testdata"

# The leaves and roots that implementations of RFC 6962 test themselves with since the RFC's first code.
KNOWN_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
KNOWN_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def vectors(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if not VECTORS.is_dir():
        pytest.skip("the published proof vectors are not beside this checkout")
    files = sorted((VECTORS / kind).rglob("*.json"))
    assert files
    for file in files:
        yield str(file.relative_to(VECTORS)), json.loads(file.read_text())


def decoded(hashes: Sequence[str] | None) -> list[bytes]:
    return [base64.b64decode(text) for text in hashes or ()]


def test_every_published_inclusion_vector_is_judged_as_published() -> None:
    for name, vector in vectors("inclusion"):
        held = True
        try:
            verify_inclusion(
                leaf=base64.b64decode(vector["leafHash"]),
                index=vector["leafIdx"],
                size=vector["treeSize"],
                proof=decoded(vector["proof"]),
                root=base64.b64decode(vector["root"]),
            )
        except ProofError:
            held = False
        assert held is not vector["wantErr"], name


def test_every_published_consistency_vector_is_judged_as_published() -> None:
    for name, vector in vectors("consistency"):
        held = True
        try:
            verify_consistency(
                old_size=vector["size1"],
                old_root=base64.b64decode(vector["root1"]),
                new_size=vector["size2"],
                new_root=base64.b64decode(vector["root2"]),
                proof=decoded(vector["proof"]),
            )
        except ProofError:
            held = False
        assert held is not vector["wantErr"], name


def test_the_known_trees_have_their_known_roots() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for size, known in enumerate(KNOWN_ROOTS, start=1):
        assert root(KNOWN_LEAVES[:size]).hex() == known


def test_every_proof_over_the_known_trees_holds() -> None:
    for size in range(1, len(KNOWN_LEAVES) + 1):
        leaves, head = KNOWN_LEAVES[:size], bytes.fromhex(KNOWN_ROOTS[size - 1])
        for index in range(size):
            proof = inclusion(index, leaves)
            verify_inclusion(leaf=leaf_hash(leaves[index]), index=index, size=size, proof=proof, root=head)
        for old in range(1, size + 1):
            verify_consistency(
                old_size=old,
                old_root=bytes.fromhex(KNOWN_ROOTS[old - 1]),
                new_size=size,
                new_root=head,
                proof=consistency(old, leaves),
            )


@settings(deadline=None)
@given(size=st.integers(1, 70), data=st.data())
def test_a_single_flipped_bit_breaks_an_inclusion_proof(size: int, data: st.DataObject) -> None:
    leaves = [i.to_bytes(2, "big") for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    hashes = [leaf_hash(leaves[index]), root(leaves), *inclusion(index, leaves)]
    spoiled = flip(hashes, data)
    with pytest.raises(ProofError):
        verify_inclusion(leaf=spoiled[0], index=index, size=size, proof=spoiled[2:], root=spoiled[1])


@settings(deadline=None)
@given(size=st.integers(2, 70), data=st.data())
def test_a_single_flipped_bit_breaks_a_consistency_proof(size: int, data: st.DataObject) -> None:
    leaves = [i.to_bytes(2, "big") for i in range(size)]
    old = data.draw(st.integers(1, size - 1))
    hashes = [root(leaves[:old]), root(leaves), *consistency(old, leaves)]
    spoiled = flip(hashes, data)
    with pytest.raises(ProofError):
        verify_consistency(
            old_size=old, old_root=spoiled[0], new_size=size, new_root=spoiled[1], proof=spoiled[2:]
        )


@settings(deadline=None)
@given(size=st.integers(2, 70), data=st.data())
def test_a_proof_holds_for_its_own_index_and_no_other(size: int, data: st.DataObject) -> None:
    leaves = [i.to_bytes(2, "big") for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index))
    with pytest.raises(ProofError):
        verify_inclusion(
            leaf=leaf_hash(leaves[index]),
            index=other,
            size=size,
            proof=inclusion(index, leaves),
            root=root(leaves),
        )


@pytest.mark.parametrize("proof", [[b""], [b"short"], [bytes(33)], [bytes(32)] * 65])
def test_a_malformed_proof_is_refused(proof: list[bytes]) -> None:
    head = root(KNOWN_LEAVES[:2])
    with pytest.raises(ProofError):
        verify_inclusion(leaf=leaf_hash(KNOWN_LEAVES[0]), index=0, size=2, proof=proof, root=head)
    with pytest.raises(ProofError):
        verify_consistency(
            old_size=1, old_root=root(KNOWN_LEAVES[:1]), new_size=2, new_root=head, proof=proof
        )


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (1, 1), (0, 0), (0, -1), (0, 2**63), (True, 2)])
def test_an_index_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ProofError):
        verify_inclusion(leaf=leaf_hash(b""), index=index, size=size, proof=[], root=leaf_hash(b""))


def flip(hashes: Sequence[bytes], data: st.DataObject) -> list[bytes]:
    spoiled = [bytearray(h) for h in hashes]
    which = data.draw(st.integers(0, len(spoiled) - 1))
    bit = data.draw(st.integers(0, 255))
    spoiled[which][bit // 8] ^= 1 << (bit % 8)
    return [bytes(h) for h in spoiled]
