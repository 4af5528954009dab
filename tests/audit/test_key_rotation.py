"""The key that signs checkpoints is changed: every log tells so, and readers are led from key to key."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_svc.archive import FileArchive
from audit_svc.key_store import KeyStore, SigningKey
from audit_svc.signer import CheckpointSigner
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.verify import (
    EntryError,
    Leaf,
    NoteError,
    NoteKey,
    PinError,
    PinStore,
    Rotation,
    RotationError,
    checkpoint_line,
    entry_line,
    followed,
    header_line,
    open_checkpoint,
    parse_leaf,
    read_rotation,
    verify_export,
)
from interlock.verify.rotation import rotation_text
from interlock_suite.databases import ServiceDatabase
from svc_kit.database import Database
from svc_kit.identity import SYSTEM_TENANT, Role
from tests.audit.conftest import Replica
from tests.audit.events import new_event
from tests.audit.served import ORIGIN, Served, append, event, refusal

LOG = f"{ORIGIN}/default"


@pytest.fixture
async def keyed(audit_database: ServiceDatabase, tmp_path: Path) -> AsyncIterator[Replica]:
    """A replica whose keys are in a folder."""
    replica = _replica(audit_database, tmp_path)
    try:
        yield replica
    finally:
        await replica.close()


def _replica(database: ServiceDatabase, folder: Path) -> Replica:
    signer = CheckpointSigner.load_or_create(folder / "keys")
    return Replica.over(database.service_url, archive=FileArchive(folder / "checkpoints"), signer=signer)


async def signed_by(replica: Replica, tenant: str = "default") -> str:
    """The key that the newest checkpoint is signed by."""
    return str(await replica.checkpoints.current_key(tenant))


async def export(replica: Replica) -> list[str]:
    signed = await replica.checkpoints.newest("default")
    lines = [header_line(LOG)]
    begin = 0
    while begin < signed.checkpoint.size:
        page = await replica.between("default", begin, signed.checkpoint.size, with_bodies=False)
        lines += [entry_line(each.index, each.leaf, {}) for each in page]
        begin += len(page)
    return [*lines, checkpoint_line(signed.note)]


async def test_larger_trees_than_that_of_the_change_are_signed_by_the_new_key(keyed: Replica) -> None:
    await keyed.log.append_batch(tuple(new_event() for _ in range(3)))
    before = await keyed.checkpoints.newest("default")
    assert await keyed.rotation.rotate("operator") == (2, 1)
    after = await keyed.checkpoints.newest("default")
    old, new = keyed.checkpoints.key("default", 1), keyed.checkpoints.key("default", 2)
    assert old != new
    assert open_checkpoint(before.note, key=old).size == 3
    assert open_checkpoint(after.note, key=new).size == 4
    with pytest.raises(NoteError):
        open_checkpoint(after.note, key=old)
    # What was signed before is read as it was.
    assert await keyed.checkpoints.at("default", 3) == before
    (told,) = await keyed.rotation.changes("default")
    assert (told.change.leaf_index, told.old, told.new) == (3, old, new)


async def test_each_log_is_told_and_one_made_later_begins_with_the_new_key(keyed: Replica) -> None:
    for tenant in ("default", "blue"):
        await keyed.log.append(new_event(tenant=tenant))
    assert await keyed.rotation.rotate("operator") == (2, 2)
    await keyed.log.append(new_event(tenant="late"))
    assert await signed_by(keyed, "late") == str(keyed.checkpoints.key("late", 2))
    assert await signed_by(keyed, "nobody") == str(keyed.checkpoints.key("nobody", 2))
    assert await keyed.rotation.changes("late") == []
    assert await keyed.rotation.rotate("operator") == (3, 3)
    assert [told.new for told in await keyed.rotation.changes("late")] == [keyed.checkpoints.key("late", 3)]
    assert len(await keyed.rotation.changes("blue")) == 2


async def test_a_change_that_was_interrupted_is_carried_on_and_told_once(
    keyed: Replica, audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    """The file is there, and the key known, but no log was told: two replicas find that at once."""
    await keyed.log.append(new_event())
    public = CheckpointSigner.load_or_create(tmp_path / "keys").make(2)
    database = Database(audit_database.service_url)
    await KeyStore(database).add(SigningKey(2, public, "operator"))
    await database.close()
    assert await signed_by(keyed) == str(keyed.checkpoints.key("default", 1))
    other = _replica(audit_database, tmp_path)
    try:
        await asyncio.gather(keyed.rotation.complete(), other.rotation.complete())
        assert (await keyed.store.head(_log_id(await keyed.store.log_of("default")))).size == 2
        for replica in (keyed, other):
            assert await signed_by(replica) == str(keyed.checkpoints.key("default", 2))
            assert await replica.rotation.complete() == 0
    finally:
        await other.close()


def _log_id(name: Any) -> Any:
    return name.log_id


async def test_a_replica_without_the_file_of_the_new_key_signs_nothing(
    keyed: Replica, audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    await keyed.log.append(new_event())
    other = _replica(audit_database, tmp_path)
    await keyed.rotation.rotate("operator")
    (tmp_path / "keys" / "checkpoint-2.pem").unlink()
    try:
        with pytest.raises(FileNotFoundError, match="number 2"):
            await other.checkpoints.newest("default")
    finally:
        await other.close()


async def test_an_export_is_verified_with_any_key_that_leads_to_the_last(
    keyed: Replica, tmp_path: Path
) -> None:
    pins = PinStore(tmp_path / "pins.json")
    keys = []
    for number in (1, 2, 3):
        await keyed.log.append(new_event())
        keys.append(keyed.checkpoints.key("default", number))
        lines = await export(keyed)
        if number == 1:
            pins.advance(key=keys[0], note=json.loads(lines[-1])["checkpoint"])
        await keyed.rotation.rotate("operator")
    lines = await export(keyed)
    keys.append(keyed.checkpoints.key("default", 4))
    for key in keys:
        report = verify_export(lines, key=key)
        assert (report.ok, report.key, len(report.rotations)) == (True, keys[-1], 3)
    pin = pins.get(LOG)
    assert pin is not None
    report = verify_export(lines, key=pin.key, pinned=pin.checkpoint)
    moved = pins.advance(key=keys[-1], note=report.note, seen_from=pin.checkpoint, rotations=report.rotations)
    assert moved.key == keys[-1]
    with pytest.raises(PinError, match="another key"):
        pins.advance(key=keys[0], note=pin.note)


async def test_a_key_that_no_entry_leads_to_is_refused(keyed: Replica, tmp_path: Path) -> None:
    """Somebody who writes the log anew can sign it, but not with the old key."""
    await keyed.log.append(new_event())
    old = keyed.checkpoints.key("default")
    pins = PinStore(tmp_path / "pins.json")
    pins.advance(key=old, note=(await keyed.checkpoints.newest("default")).note)
    thief = Ed25519PrivateKey.generate()
    forged = NoteKey(name=LOG, public_key=thief.public_key().public_bytes_raw())
    signature = base64.b64encode(thief.sign(rotation_text(old, forged))).decode()
    leaf = _leaf(old=str(old), new=str(forged), signature=signature)
    with pytest.raises(RotationError, match="not signed by the old one"):
        read_rotation(leaf)
    lines = await export(keyed)
    entry = entry_line(1, _bytes(leaf), {})
    report = verify_export([*lines[:-1], entry, lines[-1]], key=old)
    assert "SIGNATURE" in {finding.problem for finding in report.findings}
    assert report.key == old


def _leaf(*, old: str, new: str, signature: str, producer: str = "audit", origin: str = LOG) -> Leaf:
    fields = {
        "v": 1,
        "id": "01900000-0000-7000-8000-000000000009",
        "log": origin,
        "producer": producer,
        "type": "KEY_ROTATION",
        "attributes": {"old_key": old, "new_key": new, "signature": signature},
    }
    return parse_leaf(json.dumps(fields).encode())


def _bytes(leaf: Leaf) -> bytes:
    return json.dumps(dict(leaf.fields)).encode()


def test_only_an_entry_of_the_log_itself_for_this_log_changes_its_key() -> None:
    private = Ed25519PrivateKey.generate()
    old = NoteKey(name=LOG, public_key=private.public_key().public_bytes_raw())
    new = NoteKey(name=LOG, public_key=Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    signature = base64.b64encode(private.sign(rotation_text(old, new))).decode()
    good = {"old": str(old), "new": str(new), "signature": signature}
    assert read_rotation(_leaf(**good)) == Rotation(old=old, new=new)
    assert read_rotation(_leaf(**good, producer="gateway")) is None
    for wrong in (
        {**good, "origin": f"{ORIGIN}/blue"},
        {**good, "new": str(NoteKey(name=LOG, public_key=bytes(32)))},
        {**good, "old": "x"},
        {**good, "signature": "?"},
    ):
        with pytest.raises((RotationError, EntryError)):
            read_rotation(_leaf(**wrong))
    assert followed(old, [Rotation(old=old, new=new)]) == new
    assert followed(new, [Rotation(old=old, new=new)]) == new


async def test_the_service_tells_all_keys_and_only_its_operator_changes_them(audit: Served) -> None:
    async with audit.producer() as producer:
        await append(producer, event())
        forged = event(type="ENTRY_TYPE_KEY_ROTATION")
        assert (await refusal(append(producer, forged))).reason == "INVALID_FIELDS"
    async with audit.reader(Role.SUPER_ADMIN) as stub:
        assert (await refusal(stub.RotateKey(messages.RotateKeyRequest()))).reason == "ROLE_REQUIRED"
        before = await stub.GetPublicKeys(messages.GetPublicKeysRequest())
        assert (len(before.keys), len(before.changes)) == (1, 0)
    async with audit.reader(Role.SUPER_ADMIN, tenant=SYSTEM_TENANT) as stub:
        made = await stub.RotateKey(messages.RotateKeyRequest())
        assert (made.number, made.logs) == (2, 1)
    async with audit.reader(Role.VIEWER) as stub:
        after = await stub.GetPublicKeys(messages.GetPublicKeysRequest())
        assert (len(after.keys), after.keys[0]) == (2, before.keys[0])
        (change,) = after.changes
        assert (change.old_key, change.new_key) == (before.verifier_key, after.verifier_key)
        read = await stub.GetEntry(messages.GetEntryRequest(event_id=change.event_id))
        rotation = read_rotation(parse_leaf(read.entry.leaf))
        assert rotation is not None and str(rotation.new) == after.verifier_key
        assert open_checkpoint(read.checkpoint.note, key=rotation.new).size == read.entry.index + 1
