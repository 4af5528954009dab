"""Whole entries go when their time is over; the tree stays, and an entry that stays says what went."""

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from audit_svc.completeness import CompletenessReport, CompletenessWatch
from audit_svc.completeness_store import CompletenessStore
from audit_svc.event import NewEvent, RemovedEntry, StoredEntry
from audit_svc.holds import Selector
from audit_svc.retention import RetentionClass, Rule, may_follow, rule_problems
from audit_svc.verification import Flaw
from interlock.verify import (
    ExportReport,
    checkpoint_line,
    entry_line,
    header_line,
    leaf_hash,
    removed_line,
    verify_export,
    verify_inclusion,
    verify_trail,
)
from interlock.verify.tiles import TileFolder, TilesError, tile_path
from interlock_suite.databases import ServiceDatabase
from svc_kit.errors import NotFound
from svc_kit.ids import uuid7
from tests.audit.conftest import SIGNER, AdminUrl, Replica
from tests.audit.events import TASK, new_event, parts_of, trail_of
from tests.audit.served import ORIGIN
from tests.audit.test_retention import DAY, Retention
from tests.audit.test_tampering import Tamper

LOG = f"{ORIGIN}/default"
KEY = SIGNER.key(LOG, 1)
OLD = 256
RULE = Rule(payload_max_days=30, entry_max_days=184)


def old_event(**changes: Any) -> NewEvent:
    """One of 200 days ago, as its id says too."""
    made = uuid.UUID(int=uuid7().int - (int(200 * DAY) * 1000 << 80))
    return new_event(event_id=made, **changes)


@pytest.fixture
async def retention(replica: Replica) -> AsyncIterator[Retention]:
    """A full tile of prompts, the first three of them errors, of 200 days ago; and seven of now."""
    made = Retention.over(replica, days_ago=200)
    kinds = ["ERROR"] * 3 + ["PROMPT"] * (OLD - 3)
    await made.log.append_batch(tuple(old_event(type=kind) for kind in kinds))
    made.clock.advance(200 * DAY)
    await made.log.append_batch(tuple(new_event() for _ in range(7)))
    yield made
    await made.log.close()


async def swept(retention: Retention) -> None:
    await retention.set(content=RULE)
    # The contents of 253 prompts, and then the prompts themselves.
    assert await retention.sweep.run() == 2 * (OLD - 3)
    assert await retention.sweep.run() == 0


async def stored(retention: Retention) -> Sequence[StoredEntry | RemovedEntry]:
    size = (await retention.replica.checkpoints.newest("default")).checkpoint.size
    return await retention.replica.reader.between("default", 0, size, with_bodies=False)


async def export(retention: Retention, *, hide: int | None = None) -> list[str]:
    """As the service hands it out without contents; `hide` one more entry, which no other one lists."""
    lines = [
        removed_line(each.index, each.leaf_hash)
        if isinstance(each, RemovedEntry)
        else removed_line(each.index, leaf_hash(each.leaf))
        if each.index == hide
        else entry_line(each.index, each.leaf, parts_of(each))
        for each in await stored(retention)
    ]
    note = (await retention.replica.checkpoints.newest("default")).note
    return [header_line(LOG), *lines, checkpoint_line(note)]


async def verified(retention: Retention, *, hide: int | None = None) -> ExportReport:
    return verify_export(await export(retention, hide=hide), key=KEY)


async def test_entries_go_after_their_days_and_everything_still_verifies(retention: Retention) -> None:
    before = (await retention.replica.checkpoints.newest("default")).checkpoint
    await swept(retention)
    entries = await stored(retention)
    assert [each.index for each in entries] == list(range(len(entries)))
    assert [type(each) for each in entries[:OLD]] == [StoredEntry] * 3 + [RemovedEntry] * (OLD - 3)
    assert all(isinstance(each, StoredEntry) for each in entries[OLD:])
    # The service holds the log against its signed root, from the hashes that are left.
    told = [each async for each in retention.replica.verifier.run("default", begin=0, end=0)]
    assert [f for each in told for f in each.findings] == []
    assert told[-1].root_checked and told[-1].complete  # type: ignore[union-attr]
    # So do strangers, who are told no contents.
    report = verify_export(await export(retention), key=KEY, pinned=before)
    assert (report.ok, report.entries_removed, report.entries) == (True, OLD - 3, len(entries))
    # What is left is proven as before, and a page of a task simply lacks the others.
    page = await retention.replica.reader.trail("default", TASK, limit=500, begin=0, size=0, with_bodies=True)
    trail = verify_trail(trail_of(TASK, page), key=KEY)
    assert trail.ok and trail.entries_included == 10


async def test_a_removed_entry_is_still_proven_to_have_been_there(retention: Retention) -> None:
    (first, *_) = await retention.replica.between("default", 100, 101, with_bodies=False)
    await swept(retention)
    hashed, size, proof = await retention.replica.reader.inclusion("default", 100, 0)
    root = (await retention.replica.checkpoints.newest("default")).checkpoint.root
    # Whoever kept the leaf can show it.
    assert hashed == leaf_hash(first.leaf)
    verify_inclusion(leaf=leaf_hash(first.leaf), index=100, size=size, proof=proof, root=root)
    with pytest.raises(NotFound):
        await retention.replica.reader.entry("default", first.event_id, with_bodies=False)


async def test_only_those_go_whose_class_says_so_and_whose_tile_is_full(retention: Retention) -> None:
    await retention.set(content=Rule(payload_max_days=30), error=RULE)
    retention.clock.advance(250 * DAY)
    # All contents are over, and the three errors; prompts never go whole.
    assert await retention.sweep.run() == OLD + 7 + 3
    assert [each.index for each in await stored(retention) if isinstance(each, RemovedEntry)] == [0, 1, 2]
    await retention.set(content=RULE)
    (told, complete) = await retention.sweep.preview(
        (await retention.replica.store.logs(["default"]))["default"].log_id,
        await retention.policies.get("default"),
    )
    # The last seven are as old by now. They stand in a tile that is not full: its hashes are theirs.
    assert (told[RetentionClass.CONTENT].entries_due, complete) == (OLD - 3, True)


async def test_what_is_held_stays_whole(retention: Retention) -> None:
    hold = await retention.holds.place("default", Selector(type="ERROR"), reason="case 7", actor="ada")
    await retention.set(error=RULE)
    assert await retention.sweep.run() == 0
    # Contents that were removed before are no reason to let the entry go.
    await retention.holds.release("default", hold.hold_id, reason="closed", actor="ada")
    await retention.set(error=Rule(payload_max_days=30))
    assert await retention.sweep.run() == 3
    again = await retention.holds.place("default", Selector(type="ERROR"), reason="case 8", actor="ada")
    await retention.set(error=RULE)
    assert await retention.sweep.run() == 0
    (told, _) = await retention.sweep.preview(
        (await retention.replica.store.logs(["default"]))["default"].log_id,
        await retention.policies.get("default"),
    )
    assert (told[RetentionClass.ERROR].entries_due, told[RetentionClass.ERROR].entries_kept) == (0, 3)
    await retention.holds.release("default", again.hold_id, reason="closed", actor="ada")
    assert await retention.sweep.run() == 3


async def test_an_entry_that_is_hidden_without_an_explanation_is_found(
    retention: Retention, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    await swept(retention)
    await retention.replica.checkpoints.publish()
    report = await verified(retention, hide=1)
    assert [finding.index for finding in report.findings] == [1]
    # An administrator who writes the claim into the table, and names an entry that lists others.
    await Tamper(admin_url_of(audit_database))(
        "INSERT INTO removed_entry SELECT log_id, leaf_index, event_id, leaf_hash,"
        " (SELECT explained_by FROM removed_entry LIMIT 1) FROM entry WHERE leaf_index = 1",
        "DELETE FROM payload WHERE event_id = (SELECT event_id FROM entry WHERE leaf_index = 1)",
        "DELETE FROM entry WHERE leaf_index = 1",
    )
    assert [(f.index, f.flaw) for f in await retention.flaws()] == [(1, Flaw.MISSING)]


async def test_a_false_hash_in_the_place_of_an_entry_is_found(
    retention: Retention, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    await swept(retention)
    await retention.replica.checkpoints.publish()
    await Tamper(admin_url_of(audit_database))(
        "UPDATE removed_entry SET leaf_hash = set_byte(leaf_hash, 0, get_byte(leaf_hash, 0) # 1)"
        " WHERE leaf_index = 100"
    )
    found = [(f.index, f.flaw) for f in await retention.flaws()]
    assert found[0] == (0, Flaw.TILE) and found[-1][1] is Flaw.ROOT
    report = await verified(retention)
    assert not report.ok


async def test_the_database_lets_no_entry_go_before_its_time(
    retention: Retention, audit_database: ServiceDatabase
) -> None:
    """Also not one that the owner claims to be removed, with an entry of the log that could say so."""
    await retention.set(content=Rule(payload_max_days=30))
    await retention.sweep.run()
    claim = (
        "INSERT INTO removed_entry SELECT log_id, leaf_index, event_id, leaf_hash,"
        " (SELECT event_id FROM entry WHERE type = '{told}' ORDER BY leaf_index DESC LIMIT 1)"
        " FROM entry WHERE {which}"
    )
    for url in (audit_database.service_url, audit_database.owner_url):
        with psycopg.connect(url, autocommit=True) as connection:
            for told, which in (
                ("PROMPT", "leaf_index = 10"),  # explains nothing
                ("RETENTION", "leaf_index = 0"),  # has contents
                ("RETENTION", f"leaf_index = {OLD}"),  # too young, and in the last tile
                ("RETENTION", "type = 'RETENTION'"),  # stays for ever
                ("RETENTION", "leaf_index IN (10, 0)"),  # one of them has contents
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match="has to stay"):
                    connection.execute(claim.format(told=told, which=which).encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute("DELETE FROM entry WHERE leaf_index = 10")
    with psycopg.connect(audit_database.owner_url, autocommit=True) as connection:
        # A claim of before lets nothing go: a hold may have come since.
        connection.execute(claim.format(told="RETENTION", which="leaf_index = 10").encode())
        for refused in (
            "DELETE FROM entry WHERE leaf_index = 10",
            "DELETE FROM removed_entry",
            "UPDATE removed_entry SET leaf_index = 11",
            "TRUNCATE removed_entry",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(refused.encode())


async def test_a_producer_stays_complete_without_its_old_entries(replica: Replica) -> None:
    retention = Retention.over(replica, days_ago=200)
    numbered = [old_event(producer="gateway", producer_sequence=number) for number in (1, 2, 4)]
    await retention.log.append_batch((*numbered, *(old_event() for _ in range(OLD))))
    retention.clock.advance(200 * DAY)
    store = CompletenessStore(replica.database)
    report = CompletenessReport(store)
    await CompletenessWatch(replica.database, store, report, retention.clock).look()
    (before,) = await report.all()
    assert (before.complete_to, before.highest, before.missing) == (2, 4, 1)
    await retention.set(content=RULE)
    await retention.sweep.run()
    gone = [each.index for each in await stored(retention) if isinstance(each, RemovedEntry)]
    # The third one stays: without it nobody could tell what is missing.
    assert gone == [0, 1, *range(3, OLD)]
    assert await report.all() == [before]
    await retention.log.close()


async def test_a_folder_of_tiles_leaves_out_what_is_gone(retention: Retention, tmp_path: Path) -> None:
    whole = TileFolder(tmp_path / "whole", key=KEY)
    for entry in await retention.replica.between("default", 0, OLD + 7, with_bodies=False):
        whole.add(entry.leaf)
    whole.finish((await retention.replica.checkpoints.newest("default")).note)
    await swept(retention)
    entries = await stored(retention)
    note = (await retention.replica.checkpoints.newest("default")).note
    folders = [TileFolder(tmp_path / name, key=KEY) for name in ("whole", "new")]
    for folder in folders:
        for each in entries[folder.begin :]:
            folder.add(each.leaf) if isinstance(each, StoredEntry) else folder.add_removed(each.leaf_hash)
        assert folder.finish(note).size == len(entries)
    assert [folder.removed for folder in folders] == [0, OLD - 3]
    # One that was made before keeps what it has.
    assert (tmp_path / "whole" / tile_path("entries", 0)).exists()
    assert not (tmp_path / "new" / tile_path("entries", 0)).exists()
    tiles = [(tmp_path / name / tile_path(0, 0)).read_bytes() for name in ("whole", "new")]
    assert tiles[0] == tiles[1]
    with pytest.raises(TilesError, match="not its hash"):
        folders[1].add_removed(b"short")


async def test_who_removes_is_told_by_class(retention: Retention) -> None:
    await swept(retention)
    last = (await stored(retention))[-1]
    assert isinstance(last, StoredEntry)
    leaf = json.loads(last.leaf)
    assert (leaf["type"], leaf["status"]) == ("RETENTION", "ENTRIES_REMOVED")
    assert leaf["attributes"] == {"content_entries": "53", "removed_entries": "53"}
    (listed,) = last.parts
    assert json.loads(listed.body) == {"entries": [[203, 255]]}


def test_a_rule_for_entries_needs_one_for_contents_and_six_months() -> None:
    for wrong in (
        Rule(payload_max_days=30, entry_max_days=183),
        Rule(entry_max_days=184),
        Rule(payload_max_days=185, entry_max_days=184),
        Rule(payload_max_days=30, entry_max_days=-1),
    ):
        assert {field for field, _ in rule_problems(wrong)} == {"entry_max_days"}
    assert not list(rule_problems(RULE))
    locked = Rule(payload_max_days=30, entry_max_days=200, locked=True)
    for longer in (201, 0):
        assert may_follow(locked, Rule(payload_max_days=30, entry_max_days=longer, locked=True))
    assert not may_follow(locked, Rule(payload_max_days=30, entry_max_days=199, locked=True))
