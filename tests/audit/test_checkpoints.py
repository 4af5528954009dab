"""Checkpoints are signed when a log grew, continue each other, and are kept outside the database."""

import json
import stat
from pathlib import Path

import pytest

from audit_svc.archive import FileArchive
from audit_svc.event import NewEvent
from interlock.verify import EMPTY_ROOT, PinStore, open_checkpoint
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
