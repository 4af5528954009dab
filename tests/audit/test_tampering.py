"""An administrator who switches the guards off still cannot change the log unnoticed."""

import asyncio
from pathlib import Path

import psycopg
import pytest

from audit_svc.archive import FileArchive
from audit_svc.migrations import GRANTS
from interlock.verify import Problem, TrailReport, open_checkpoint, verify_trail
from interlock_suite.databases import ServiceDatabase
from svc_kit.errors import DataLoss
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import TASK, new_event, trail_of

ENTRIES = 6


@pytest.fixture
async def filled(replica: Replica) -> Replica:
    for _ in range(ENTRIES):
        await replica.log.append(new_event())
    await replica.checkpoints.publish()
    return replica


@pytest.fixture
def tamper(audit_database: ServiceDatabase, admin_url_of: AdminUrl) -> "Tamper":
    return Tamper(admin_url_of(audit_database))


class Tamper:
    """Runs statements as a superuser with every trigger switched off."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self, *statements: str) -> None:
        await asyncio.to_thread(self._run, statements)

    def _run(self, statements: tuple[str, ...]) -> None:
        with psycopg.connect(self._url) as connection:
            for table in GRANTS:
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
            for statement in statements:
                # None that does nothing; of what defines tables no rows are counted.
                assert connection.execute(statement.encode()).rowcount != 0, statement


async def read_and_verify(replica: Replica) -> TrailReport:
    page = await replica.reader.trail("default", TASK, limit=100, begin=0, size=0, with_bodies=True)
    return verify_trail(trail_of(TASK, page), key=replica.checkpoints.key("default"))


async def test_an_untouched_log_verifies(filled: Replica) -> None:
    report = await read_and_verify(filled)
    assert report.ok and report.entries_included == ENTRIES and report.parts_matched == ENTRIES


async def test_a_changed_leaf_is_found_at_its_index(filled: Replica, tamper: Tamper) -> None:
    await tamper("UPDATE entry SET leaf = set_byte(leaf, 20, get_byte(leaf, 20) # 1) WHERE leaf_index = 3")
    report = await read_and_verify(filled)
    assert report.first_bad_index == 3
    assert Problem.INCLUSION in {finding.problem for finding in report.findings}


async def test_a_leaf_changed_together_with_its_hash_is_found_at_its_index(
    filled: Replica, tamper: Tamper
) -> None:
    await tamper(
        "UPDATE entry SET leaf = convert_to(replace(convert_from(leaf, 'UTF8'), 'summariser', 'x'), 'UTF8')"
        " WHERE leaf_index = 3",
        r"UPDATE entry SET leaf_hash = sha256('\x00'::bytea || leaf) WHERE leaf_index = 3",
    )
    report = await read_and_verify(filled)
    # Its neighbours' proofs run through the false hash, so they fail too; the entry itself is among them.
    assert not report.ok
    assert 3 in {f.index for f in report.findings if f.problem is Problem.INCLUSION}


async def test_a_changed_payload_is_found_at_its_index(filled: Replica, tamper: Tamper) -> None:
    await tamper(
        "UPDATE payload SET body = 'x' WHERE event_id = (SELECT event_id FROM entry WHERE leaf_index = 2)"
    )
    report = await read_and_verify(filled)
    assert [(f.problem, f.index) for f in report.findings] == [(Problem.PAYLOAD, 2)]


async def test_a_removed_entry_breaks_the_tree(filled: Replica, tamper: Tamper) -> None:
    await tamper("DELETE FROM entry WHERE leaf_index = 2")
    with pytest.raises(DataLoss, match="missing"):
        await read_and_verify(filled)


async def test_entries_that_changed_places_are_found(filled: Replica, tamper: Tamper) -> None:
    await tamper(
        "UPDATE entry SET leaf_index = 100 WHERE leaf_index = 1",
        "UPDATE entry SET leaf_index = 1 WHERE leaf_index = 4",
        "UPDATE entry SET leaf_index = 4 WHERE leaf_index = 100",
    )
    report = await read_and_verify(filled)
    assert {1, 4} <= {finding.index for finding in report.findings}


async def test_a_log_cut_off_at_its_end_signs_nothing_more(
    filled: Replica, tamper: Tamper, audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    """Also when the checkpoints in the database were cut off with it, and after a restart."""
    await tamper(
        "DELETE FROM entry WHERE leaf_index >= 4",
        "DELETE FROM checkpoint WHERE size > 4",
        "UPDATE log_head SET size = 4, frontier = decode(repeat('00', 32), 'hex')",
    )
    with pytest.raises(DataLoss, match="shrank from 6 to 4"):
        await filled.checkpoints.newest("default")
    restarted = Replica.over(audit_database.service_url, archive=FileArchive(tmp_path / "checkpoints"))
    try:
        with pytest.raises(DataLoss, match="shrank from 6 to 4"):
            await restarted.checkpoints.newest("default")
    finally:
        await restarted.close()


async def test_a_rewritten_log_that_grew_again_signs_nothing_more(
    filled: Replica, tamper: Tamper, audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    await tamper(r"UPDATE entry SET leaf_hash = sha256('\x00'::bytea || 'other') WHERE leaf_index = 0")
    await filled.log.append(new_event())
    with pytest.raises(DataLoss, match="another root"):
        await filled.checkpoints.newest("default")
    latest = await FileArchive(tmp_path / "checkpoints").latest(filled.checkpoints.origin("default"))
    assert latest is not None
    assert open_checkpoint(latest, key=filled.checkpoints.key("default")).size == ENTRIES


async def test_one_damaged_log_does_not_hold_up_the_others(filled: Replica, tamper: Tamper) -> None:
    await tamper(r"UPDATE entry SET leaf_hash = sha256('\x00'::bytea || 'other') WHERE leaf_index = 0")
    await filled.log.append_batch((new_event(), new_event(tenant="blue"), new_event(tenant="yellow")))
    await filled.checkpoints.publish()
    for tenant in ("blue", "yellow"):
        assert await filled.checkpoints.at(tenant, 1) is not None
    assert await filled.checkpoints.at("default", ENTRIES + 1) is None
