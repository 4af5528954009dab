"""Checkpoints are signed when a log grew, continue each other, and are kept outside the database."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from audit_svc.archive import FileArchive
from audit_svc.event import NewEvent
from interlock.verify import EMPTY_ROOT, NoteKey, PinStore, open_checkpoint
from interlock.verify.heads import HEADS, open_heads, set_back
from interlock_suite.databases import ServiceDatabase
from tests.audit.conftest import Replica
from tests.audit.events import new_event
from tests.audit.served import ORIGIN


def events(count: int) -> tuple[NewEvent, ...]:
    return tuple(new_event(parts=()) for _ in range(count))


async def test_a_tenant_without_entries_has_an_empty_checkpoint(replica: Replica) -> None:
    signed = await replica.checkpoints.newest("nobody")
    checkpoint = open_checkpoint(signed.note, key=replica.checkpoints.key("nobody"))
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (f"{ORIGIN}/nobody", 0, EMPTY_ROOT)


async def test_a_checkpoint_covers_all_that_was_acknowledged_before(replica: Replica) -> None:
    for size in range(1, 6):
        await replica.log.append(new_event())
        assert (await replica.checkpoints.newest("default")).checkpoint.size == size


async def test_a_log_that_did_not_grow_keeps_its_checkpoint(replica: Replica) -> None:
    await replica.log.append_batch(events(3))
    assert await replica.checkpoints.newest("default") == await replica.checkpoints.newest("default")


async def test_a_reader_who_pins_follows_the_log_as_it_grows(replica: Replica, tmp_path: Path) -> None:
    pins = PinStore(tmp_path / "pins.json")
    key = replica.checkpoints.key("default")
    seen = 0
    for count in (3, 250, 20, 600):
        await replica.log.append_batch(events(count))
        signed = await replica.checkpoints.newest("default")
        proof: tuple[bytes, ...] = ()
        if seen:
            _, proof = await replica.reader.consistency("default", seen, signed.checkpoint.size)
        pins.advance(key=key, note=signed.note, consistency=proof)
        seen = signed.checkpoint.size
    assert seen == 873


async def test_publishing_archives_each_log_outside_the_database(replica: Replica, tmp_path: Path) -> None:
    archive = FileArchive(tmp_path / "checkpoints")
    for sizes in ((2, 1), (1, 4)):
        for tenant, count in zip(("default", "blue"), sizes, strict=True):
            await replica.log.append_batch(tuple(new_event(tenant=tenant, parts=()) for _ in range(count)))
        await replica.checkpoints.publish()
    for tenant, kept_sizes in (("default", [2, 3]), ("blue", [1, 5])):
        folder = tmp_path / "checkpoints" / ORIGIN / tenant
        key = replica.checkpoints.key(tenant)
        latest = await archive.latest(f"{ORIGIN}/{tenant}")
        assert latest is not None and open_checkpoint(latest, key=key).size == kept_sizes[-1]
        (day,) = folder.glob("*.jsonl")
        kept = [json.loads(line)["note"] for line in day.read_text().splitlines()]
        assert [open_checkpoint(note, key=key).size for note in kept] == kept_sizes
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert sorted(p.name for p in folder.iterdir()) == [day.name, "latest.note"]


async def test_what_is_published_states_all_logs_at_once(
    replica: Replica, audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    key = NoteKey(name=f"{ORIGIN}/{HEADS}", public_key=replica.checkpoints.key("default").public_key)
    folder = tmp_path / "checkpoints" / ORIGIN / HEADS
    statements = []
    for tenant in ("default", "blue", "default"):
        await replica.log.append(new_event(tenant=tenant, parts=()))
        await replica.checkpoints.publish()
        statements.append(open_heads((folder / "latest.note").read_text(), key=key))
    sizes = [
        {origin.rpartition("/")[2]: head.size for origin, head in each.logs.items()} for each in statements
    ]
    assert sizes == [{"default": 1}, {"default": 1, "blue": 1}, {"default": 2, "blue": 1}]
    assert list(set_back(statements[2], since=statements[0])) == []
    assert len(list(set_back(statements[0], since=statements[2]))) == 2
    assert len(list(folder.iterdir())) in (2, 3)  # the newest, and the last one of this hour, or of two
    # Another process goes on where the archive is, and states nothing as long as nothing grew.
    restarted = Replica.over(audit_database.service_url, archive=FileArchive(tmp_path / "checkpoints"))
    try:
        await restarted.log.append(new_event(tenant="blue", parts=()))
        await restarted.checkpoints.publish()
    finally:
        await restarted.close()
    heads = open_heads((folder / "latest.note").read_text(), key=key)
    assert {origin.rpartition("/")[2]: head.size for origin, head in heads.logs.items()} == {
        "default": 2,
        "blue": 2,
    }


async def test_a_log_that_is_set_back_or_hidden_is_seen_from_the_statements(
    replica: Replica, tmp_path: Path
) -> None:
    for tenant in ("default", "blue"):
        await replica.log.append(new_event(tenant=tenant, parts=()))
    await replica.checkpoints.publish()
    latest = tmp_path / "checkpoints" / ORIGIN / HEADS / "latest.note"
    earlier = tmp_path / "kept.note"
    earlier.write_text(latest.read_text())
    await replica.log.append(new_event(parts=()))
    await replica.checkpoints.publish()
    key = str(replica.checkpoints.key("default"))

    def compared(new: Path, old: Path) -> tuple[int, str]:
        command = [
            sys.executable,
            "-m",
            "interlock.verify.heads",
            str(new),
            "--key",
            key,
            "--since",
            str(old),
        ]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        return done.returncode, done.stdout + done.stderr

    assert compared(latest, earlier)[0] == 0
    code, said = compared(earlier, latest)
    assert code == 1 and "shrank from 2 to 1" in said
    latest.write_text(latest.read_text().replace(" 2 ", " 3 "))
    code, said = compared(latest, earlier)
    assert code == 2 and "does not fit" in said


async def test_publishing_without_news_writes_nothing(replica: Replica, tmp_path: Path) -> None:
    await replica.log.append_batch(events(2))
    await replica.checkpoints.publish()
    (day,) = (tmp_path / "checkpoints").rglob("*.jsonl")
    before = day.read_text()
    await replica.checkpoints.publish()
    assert day.read_text() == before


async def test_a_checkpoint_signed_by_another_replica_is_archived_too(
    replica: Replica, audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    await replica.checkpoints.publish()
    other = Replica.over(audit_database.service_url)
    try:
        await other.log.append_batch(events(7))
        signed = await other.checkpoints.newest("default")
    finally:
        await other.close()
    await replica.checkpoints.publish()
    assert await FileArchive(tmp_path / "checkpoints").latest(signed.checkpoint.origin) == signed.note


@pytest.mark.parametrize("tenant", ["default", "blue"])
async def test_keys_of_different_logs_have_different_names(replica: Replica, tenant: str) -> None:
    assert str(replica.checkpoints.key(tenant)).startswith(f"{ORIGIN}/{tenant}+")
