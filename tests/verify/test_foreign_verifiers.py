"""What others wrote verifies our logs: nothing here is judged by code of ours."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import tamperlog.merkle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tamperlog.errors import ProofError as ForeignProofError
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint as ForeignCheckpoint
from tlog_scales.tlog import ConsistencyProofInvalid, InclusionProofInvalid

from audit_svc.merkle import TileId, TileReader, plan_consistency, plan_inclusion, tile_root
from interlock.verify import Checkpoint, NoteKey, ProofError, leaf_hash, signed_note
from interlock.verify.merkle import Frontier
from interlock.verify.proof_text import read_proof, verify_entry_proof, write_proof
from interlock.verify.tiles import WIDTH, TileFolder, TilesError, tile_path

ORIGIN = "interlock.test/suite/default"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = NoteKey(name=ORIGIN, public_key=PRIVATE.public_key().public_bytes_raw())
SIZES = (1, 2, 255, 256, 257, 600, 66_000)
LEAVES = [json.dumps({"n": n}).encode() for n in range(max(SIZES))]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def note_of(size: int) -> str:
    """The log's own signed note."""
    checkpoint = Checkpoint(origin=ORIGIN, size=size, root=Frontier().extended(HASHES[:size]).root())
    return str(signed_note(checkpoint.text, key=KEY, signature=PRIVATE.sign(checkpoint.text.encode())))


def write(folder: Path, size: int) -> int:
    """Write the log, or bring it up to date; how many leaves were asked for."""
    tiles = TileFolder(folder, key=KEY)
    for leaf in LEAVES[tiles.begin : size]:
        tiles.add(leaf)
    tiles.finish(note_of(size))
    return size - tiles.begin


def foreign_checkpoint(reader: TilesReader) -> ForeignCheckpoint:
    """The folder's checkpoint, once the foreign tool holds its signature for ours."""
    checkpoint = reader.get_checkpoint()
    verifier = Vkey.from_string(str(KEY)).get_verifier()
    (signature,) = [each for each in checkpoint.signatures if Vkey.from_string(str(KEY)).match(each)]
    verifier.verify_note(signature, checkpoint)
    return checkpoint


def test_a_folder_of_tiles_is_verified_by_a_tool_of_others_while_it_grows(tmp_path: Path) -> None:
    folder, before = tmp_path / "log", None
    for size in SIZES:
        asked = write(folder, size)
        # What is full already is not asked for, or written, again.
        assert asked <= size - (before.size - before.size % WIDTH if before else 0)
        reader = TilesReader(LocalBackend(folder))
        checkpoint = foreign_checkpoint(reader)
        assert checkpoint.size == size
        reader.set_size(size)
        assert reader.calculate_root_hash() == checkpoint.root_hash
        for index in {0, size // 2, size - 1}:
            assert reader.get_entry(index) == LEAVES[index]
            proof = reader.get_inclusion_proof(index, size)
            proof.check(HASHES[index], checkpoint.root_hash)
            with pytest.raises(InclusionProofInvalid):
                proof.check(leaf_hash(b"another"), checkpoint.root_hash)
            # And back: the tool's proof, as a text, by our own verifier.
            text = write_proof(index, proof.node_hashes, note_of(size))
            assert verify_entry_proof(text, LEAVES[index], key=KEY).size == size
        if before is not None:
            grown = reader.get_consistency_proof(before.size, size)
            grown.check(before.root_hash, checkpoint.root_hash)
            with pytest.raises(ConsistencyProofInvalid):
                grown.check(bytes(32), checkpoint.root_hash)
        before = checkpoint


def test_what_was_changed_in_a_folder_is_found_when_it_is_brought_up_to_date(tmp_path: Path) -> None:
    write(tmp_path, 600)
    tile = tmp_path / tile_path(0, 1)
    tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    with pytest.raises(TilesError, match="do not lead to the root"):
        write(tmp_path, 601)
    tile.unlink()
    with pytest.raises(TilesError, match="is missing"):
        write(tmp_path, 601)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_text("dear")
    with pytest.raises(TilesError, match="something else"):
        write(tmp_path / "other", 1)


@pytest.mark.parametrize("size", [300, 512])
def test_a_history_that_was_written_anew_and_signed_does_not_continue_a_folder(
    tmp_path: Path, size: int
) -> None:
    write(tmp_path, size)
    other = [*LEAVES[: size - 1], b"another", b"one more"]
    root = Frontier().extended([leaf_hash(leaf) for leaf in other]).root()
    text = Checkpoint(origin=ORIGIN, size=len(other), root=root).text
    note = str(signed_note(text, key=KEY, signature=PRIVATE.sign(text.encode())))
    with pytest.raises(TilesError, match="do not lead to the root"):
        bring_up_to_date(tmp_path, other, note)


def bring_up_to_date(folder: Path, leaves: Sequence[bytes], note: str) -> None:
    tiles = TileFolder(folder, key=KEY)
    for leaf in leaves[tiles.begin :]:
        tiles.add(leaf)
    tiles.finish(note)


def proofs(size: int) -> TileReader:
    tiles: dict[TileId, list[bytes]] = {}
    tier, hashes = 0, HASHES[:size]
    while hashes:
        chunks = [hashes[i : i + WIDTH] for i in range(0, len(hashes), WIDTH)]
        tiles |= {TileId(tier, number): chunk for number, chunk in enumerate(chunks)}
        hashes = [tile_root(chunk) for chunk in chunks if len(chunk) == WIDTH]
        tier += 1
    return TileReader(tiles)


@pytest.mark.parametrize("size", [1, 2, 7, 256, 300, 1000])
def test_the_services_proofs_hold_for_a_second_tool_of_others(size: int) -> None:
    reader = proofs(size)
    root = tamperlog.merkle.merkle_root(HASHES[:size])
    for index in range(0, size, max(1, size // 50)):
        proof = list(plan_inclusion(index, size).resolve(reader))
        tamperlog.merkle.verify_inclusion(index, size, HASHES[index], proof, root)
        assert proof == tamperlog.merkle.inclusion_proof(index, HASHES[:size])
        with pytest.raises(ForeignProofError):
            tamperlog.merkle.verify_inclusion(index, size, leaf_hash(b"another"), proof, root)
    for old in range(1, size, max(1, size // 50)):
        proof = list(plan_consistency(old, size).resolve(reader))
        old_root = tamperlog.merkle.merkle_root(HASHES[:old])
        tamperlog.merkle.verify_consistency(old, old_root, size, root, proof)
        with pytest.raises(ForeignProofError):
            tamperlog.merkle.verify_consistency(old, bytes(32), size, root, proof)


def test_a_text_that_is_no_proof_is_refused() -> None:
    good = write_proof(1, list(plan_inclusion(1, 3).resolve(proofs(3))), note_of(3))
    assert verify_entry_proof(good, LEAVES[1], key=KEY).size == 3
    assert read_proof(good.replace("\nindex", "\nextra aGk=\nindex")).index == 1
    for bad in (
        "",
        good.replace("@v1", "@v2"),
        good.replace("index 1", "index 01"),
        good.replace("index 1", "index -1"),
        good.replace("index 1\n", "index 1\nAAAA\n"),
        good.replace("index 1\n", "index 1\n?\n"),
        good.partition("\n\n")[0],
    ):
        with pytest.raises(ProofError):
            read_proof(bad)
    with pytest.raises(ProofError):
        verify_entry_proof(good, LEAVES[2], key=KEY)
    with pytest.raises(ProofError):
        verify_entry_proof(good.replace("index 1", "index 2"), LEAVES[1], key=KEY)
