"""Verifying a stored log row by row: whatever is changed in the database, place and kind are named."""

# ruff: noqa: S608 - the statements are put together from words of our own

import random

import pytest

from audit_svc import pieces
from audit_svc.log_verifier import MAX_FINDINGS, Verdict
from audit_svc.verification import Finding
from interlock.audit.v1 import audit_service_pb2 as messages
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import Role
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import new_event
from tests.audit.served import Served, append, event, refusal
from tests.audit.test_tampering import Tamper

ENTRIES = 600


@pytest.fixture
def tamper(audit_database: ServiceDatabase, admin_url_of: AdminUrl) -> Tamper:
    return Tamper(admin_url_of(audit_database))


@pytest.fixture
async def filled(replica: Replica) -> Replica:
    """With two full tiles, and some more."""
    for _ in range(ENTRIES // 100):
        await replica.log.append_batch(tuple(new_event() for _ in range(100)))
    await replica.checkpoints.publish()
    return replica


async def verified(replica: Replica, begin: int = 0, end: int = 0) -> tuple[list[Finding], Verdict]:
    findings: list[Finding] = []
    async for told in replica.verifier.run("default", begin=begin, end=end):
        findings += told.findings
    assert isinstance(told, Verdict)
    return findings, told


async def test_an_untouched_log_holds_down_to_its_root(filled: Replica) -> None:
    findings, verdict = await verified(filled)
    assert (findings, verdict.root_checked, verdict.complete) == ([], True, True)
    assert verdict.checkpoint.checkpoint.size == ENTRIES
    findings, verdict = await verified(filled, 10, 20)
    assert (findings, verdict.root_checked, verdict.complete) == ([], False, True)


_ONE = "WHERE leaf_index = 301"
_EVENT = f"WHERE event_id = (SELECT event_id FROM entry {_ONE})"
_REPLACED = "convert_to(replace(convert_from(leaf, 'UTF8'), 'summariser', 'x'), 'UTF8')"
_COLUMNS = {
    "agent": "'somebody'",
    "tool": "'other'",
    "type": "'ERROR'",
    "status": "'OTHER'",
    "actor": "'x'",
    "producer": "'x'",
    "producer_sequence": "999",
    "agent_version": "'9.9.9'",
    "task_id": "gen_random_uuid()",
    "trace_id": "'x'",
    "span_id": "'x'",
    "event_time": "event_time + interval '1 microsecond'",
    "recorded_time": "recorded_time - interval '1 day'",
    "event_id": "overlay(event_id::text PLACING '0000000000ab' FROM 25)::uuid",
}


async def test_every_single_change_is_found_where_it_was_made(filled: Replica, tamper: Tamper) -> None:
    """Each is undone before the next: a savepoint would need the service to read what is not committed."""
    await tamper("CREATE TABLE kept AS SELECT * FROM entry")
    back = ", ".join(f"{name} = kept.{name}" for name in (*_COLUMNS, "leaf", "leaf_hash"))
    for column, value in _COLUMNS.items():
        await tamper(f"UPDATE entry SET {column} = {value} {_ONE}")
        findings, _ = await verified(filled)
        assert {(each.index, each.flaw) for each in findings} >= {(301, "COLUMNS")}, column
        assert column in findings[0].message
        await tamper(f"UPDATE entry SET {back} FROM kept WHERE entry.leaf_index = kept.leaf_index")
    chance = random.Random(3)
    for place in (chance.randrange(200) for _ in range(8)):
        await tamper(f"UPDATE entry SET leaf = set_byte(leaf, {place}, get_byte(leaf, {place}) # 1) {_ONE}")
        findings, _ = await verified(filled)
        assert (301, "LEAF") in {(each.index, each.flaw) for each in findings}
        assert "ROOT" in {each.flaw for each in findings}
        await tamper(f"UPDATE entry SET {back} FROM kept WHERE entry.leaf_index = kept.leaf_index")
    await tamper("DROP TABLE kept")
    assert (await verified(filled))[0] == []


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([f"UPDATE payload SET body = 'x' {_EVENT}"], {(301, "PAYLOAD")}),
        ([f"UPDATE payload SET salt = decode(repeat('00', 32), 'hex') {_EVENT}"], {(301, "PAYLOAD")}),
        ([f"UPDATE payload SET content_type = 'x' {_EVENT}"], {(301, "PAYLOAD")}),
        ([f"DELETE FROM payload {_EVENT}"], {(301, "PAYLOAD")}),
        ([f"UPDATE payload SET part = 'other' {_EVENT}"], {(301, "PAYLOAD")}),
        ([f"DELETE FROM entry {_ONE}"], {(301, "MISSING")}),
        (
            [
                "UPDATE entry SET leaf_index = 9999 WHERE leaf_index = 301",
                "UPDATE entry SET leaf_index = 301 WHERE leaf_index = 302",
                "UPDATE entry SET leaf_index = 302 WHERE leaf_index = 9999",
            ],
            {(256, "TILE"), (ENTRIES, "ROOT")},
        ),
        (
            [
                f"UPDATE entry SET leaf = {_REPLACED}, agent = 'x' {_ONE}",
                rf"UPDATE entry SET leaf_hash = sha256('\x00'::bytea || leaf) {_ONE}",
            ],
            {(256, "TILE"), (ENTRIES, "ROOT")},
        ),
        (["UPDATE tile SET hashes = set_byte(hashes, 99, 7) WHERE number = 1 AND tier = 0"], {(256, "TILE")}),
        (["DELETE FROM tile WHERE number = 0 AND tier = 0"], {(0, "TILE")}),
    ],
)
async def test_what_was_changed_moved_or_taken_away_is_named(
    filled: Replica, tamper: Tamper, statements: list[str], expected: set[tuple[int, str]]
) -> None:
    await tamper(*statements)
    findings, _ = await verified(filled)
    assert {(each.index, str(each.flaw)) for each in findings} == expected


async def test_after_too_many_findings_it_says_that_it_stopped(
    filled: Replica, tamper: Tamper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_ROWS_AT_A_TIME", 512)
    await tamper("UPDATE entry SET agent = 'x'", "UPDATE payload SET body = 'x'")
    findings, verdict = await verified(filled)
    assert len(findings) >= MAX_FINDINGS
    assert (verdict.root_checked, verdict.complete) == (False, False)


async def test_the_log_is_verified_over_the_wire_by_auditors_and_admins(audit: Served) -> None:
    async with audit.producer() as producer:
        for _ in range(3):
            await append(producer, event())
    async with audit.reader(Role.AUDITOR) as stub:
        told = [message async for message in stub.VerifyRange(messages.VerifyRangeRequest())]
        assert (told[0].checked, told[0].total, told[-1].root_checked) == (3, 3, True)
        assert told[-1].checkpoint.tree_size == 3
        bad = messages.VerifyRangeRequest(begin=5, end=2)
        assert (await refusal(anext(aiter(stub.VerifyRange(bad))))).reason == "INVALID_FIELDS"
    async with audit.reader(Role.DEVELOPER) as stub:
        refused = await refusal(anext(aiter(stub.VerifyRange(messages.VerifyRangeRequest()))))
        assert refused.reason == "ROLE_REQUIRED"
    async with audit.reader(Role.ADMIN, tenant="empty") as stub:
        (only,) = [message async for message in stub.VerifyRange(messages.VerifyRangeRequest())]
        assert (only.total, only.root_checked, only.complete) == (0, True, True)
