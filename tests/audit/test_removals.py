"""Contents that were removed: gone from the database, explained by an entry, and every proof still holds."""

import json

import pytest

from audit_svc.removal_store import PlacedPart
from audit_svc.verification import Finding
from interlock.verify import NoteKey, PartBytes, checkpoint_line, entry_line, header_line, verify_export
from interlock.verify.gaps import REMOVED
from interlock_suite.databases import ServiceDatabase
from tests.audit.conftest import SIGNER, AdminUrl, Replica
from tests.audit.events import new_event
from tests.audit.served import ORIGIN
from tests.audit.test_tampering import Tamper

LOG = f"{ORIGIN}/default"


async def filled(replica: Replica) -> list[PlacedPart]:
    """Ten entries; the places of their first contents."""
    events = [new_event() for _ in range(10)]
    await replica.log.append_batch(tuple(events))
    return [PlacedPart(event.event_id, i, event.parts[0].name) for i, event in enumerate(events)]


async def remove(replica: Replica, *parts: PlacedPart) -> int:
    appended = await replica.removals.remove(
        "default", parts, kind="ERASURE", actor="ada", attributes={"erasure": "x"}, reason="asked to"
    )
    return appended.index


async def findings(replica: Replica) -> list[Finding]:
    return [f async for told in replica.verifier.run("default", begin=0, end=0) for f in told.findings]


async def export(replica: Replica) -> list[str]:
    signed = await replica.checkpoints.newest("default")
    entries = await replica.between("default", 0, signed.checkpoint.size, with_bodies=True)
    lines = [
        entry_line(e.index, e.leaf, {p.name: PartBytes(salt=p.salt, body=p.body) for p in e.parts})
        for e in entries
    ]
    return [header_line(LOG), *lines, checkpoint_line(signed.note)]


def key() -> NoteKey:
    return SIGNER.key(LOG, 1)


async def test_what_an_entry_explains_is_no_flaw_and_every_proof_still_holds(replica: Replica) -> None:
    parts = await filled(replica)
    assert await remove(replica, parts[2], parts[5]) == 10
    assert await findings(replica) == []
    entries = await replica.between("default", 0, 11, with_bodies=True)
    assert [len(entry.parts) for entry in entries[:6]] == [1, 1, 0, 1, 1, 0]
    told = {part.name: part.body for part in entries[10].parts}
    assert json.loads(told[REMOVED]) == {"parts": [[2, parts[2].part], [5, parts[5].part]]}
    assert told["reason"] == b"asked to"
    report = verify_export(await export(replica), key=key())
    assert (report.ok, report.entries, report.parts_erased, report.parts_withheld) == (True, 11, 2, 0)


async def test_an_entry_explains_what_it_lists_and_nothing_else(
    replica: Replica, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    parts = await filled(replica)
    told = await remove(replica, parts[2])
    await replica.checkpoints.publish()
    tamper = Tamper(admin_url_of(audit_database))
    # Somebody who writes an explanation into the index alone.
    await tamper(
        "INSERT INTO removed_part SELECT log_id, event_id, part, (SELECT explained_by FROM removed_part)"
        " FROM payload WHERE event_id = (SELECT event_id FROM entry WHERE leaf_index = 3)"
    )
    await tamper("DELETE FROM payload WHERE event_id = (SELECT event_id FROM entry WHERE leaf_index = 3)")
    assert [finding.index for finding in await findings(replica)] == [3]
    report = verify_export(await export(replica), key=key())
    assert (report.parts_erased, report.parts_withheld) == (1, 1)
    # Without its list the entry explains nothing any more, and lacks a content itself.
    await tamper("DELETE FROM payload WHERE part = 'removed'")
    assert [finding.index for finding in await findings(replica)] == [2, 3, told]


async def test_a_removal_that_fails_leaves_neither_entry_nor_gap(
    replica: Replica, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    parts = await filled(replica)
    tamper = Tamper(admin_url_of(audit_database))
    await tamper("ALTER TABLE removed_part ADD CONSTRAINT full_disk CHECK (part <> 'input') NOT VALID")
    try:
        with pytest.raises(Exception, match="full_disk"):
            await remove(replica, parts[0])
    finally:
        await tamper("ALTER TABLE removed_part DROP CONSTRAINT full_disk")
    assert (await replica.checkpoints.newest("default")).checkpoint.size == len(parts)
    assert await findings(replica) == []
    assert await remove(replica, parts[0]) == len(parts)
