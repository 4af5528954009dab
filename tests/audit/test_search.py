"""Searching the log: what is found, page by page, and by whom."""

import json
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from interlock.audit.v1 import audit_service_pb2 as messages
from interlock.audit.v1 import entry_pb2
from interlock.verify import leaf_hash, open_checkpoint, verify_inclusion
from interlock_suite.databases import ServiceDatabase
from svc_kit.identity import Role
from svc_kit.ids import uuid7
from tests.audit.served import Served, append, event, pinned_key, refusal

if TYPE_CHECKING:
    from tests.audit.served import Stub

TASKS = [str(uuid7()) for _ in range(3)]


async def search(stub: "Stub", wanted: str = "", **options: Any) -> list[messages.SearchEntriesResponse]:
    """All pages."""
    pages = []
    token = ""
    while True:
        request = messages.SearchEntriesRequest(filter=wanted, page_token=token, **options)
        pages.append(await stub.SearchEntries(request))
        token = pages[-1].next_page_token
        if not token:
            return pages


def leaves(pages: list[messages.SearchEntriesResponse]) -> list[dict[str, Any]]:
    return [json.loads(entry.leaf) for page in pages for entry in page.entries]


async def filled(audit: Served, count: int = 60) -> list[dict[str, Any]]:
    """Entries of every kind; what their leaves say, the newest first."""
    chance = random.Random(5)
    async with audit.producer() as producer:
        for _ in range(count):
            await append(
                producer,
                event(
                    type=chance.choice([entry_pb2.ENTRY_TYPE_TOOL_CALL, entry_pb2.ENTRY_TYPE_ERROR]),
                    agent=chance.choice(["clerk", "buyer"]),
                    tool=chance.choice(["", "pay"]),
                    task_id=chance.choice(TASKS),
                    actor=chance.choice(["ada", "grace"]),
                    status=chance.choice(["RUNNING", "REFUSED"]),
                ),
            )
    async with audit.reader(Role.VIEWER) as stub:
        return leaves(await search(stub))


async def test_every_filter_finds_just_what_fits_newest_first_in_pages_of_any_size(audit: Served) -> None:
    everything = await filled(audit)
    assert len(everything) == 60
    half = everything[30]["recorded_at"]
    async with audit.reader(Role.VIEWER) as stub:
        for wanted, fits in (
            ('agent = "clerk"', lambda leaf: leaf["agent"] == "clerk"),
            ('tool = "pay" AND agent = "buyer"', lambda leaf: leaf.get("tool") and leaf["agent"] == "buyer"),
            ('type = "ERROR"', lambda leaf: leaf["type"] == "ERROR"),
            (f'task_id = "{TASKS[0]}"', lambda leaf: leaf["task"] == TASKS[0]),
            ('status != "REFUSED"', lambda leaf: leaf["status"] != "REFUSED"),
            (f'recorded_time >= "{half}"', lambda leaf: leaf["recorded_at"] >= half),
            (
                f'agent = "clerk" AND recorded_time < "{half}"',
                lambda leaf: leaf["agent"] == "clerk" and leaf["recorded_at"] < half,
            ),
            ('producer = "orchestrator" AND agent = "nobody"', lambda _: False),
        ):
            expected = [leaf for leaf in everything if fits(leaf)]
            for size in (7, 1000):
                assert leaves(await search(stub, wanted, page_size=size)) == expected, wanted


async def test_pages_are_of_the_log_as_the_first_one_saw_it_and_each_entry_is_proven(audit: Served) -> None:
    everything = await filled(audit, 12)
    key = await pinned_key(audit)
    async with audit.reader(Role.VIEWER) as stub, audit.producer() as producer:
        first = await stub.SearchEntries(messages.SearchEntriesRequest(page_size=5, include_proofs=True))
        await append(producer, event(agent="late"))
        request = messages.SearchEntriesRequest(
            page_size=50, include_proofs=True, page_token=first.next_page_token
        )
        second = await stub.SearchEntries(request)
    assert leaves([first, second]) == everything
    assert first.checkpoint == second.checkpoint
    checkpoint = open_checkpoint(first.checkpoint.note, key=key)
    for page in (first, second):
        for entry, proof in zip(page.entries, page.proofs, strict=True):
            verify_inclusion(
                index=entry.index,
                size=checkpoint.size,
                leaf=leaf_hash(entry.leaf),
                proof=tuple(proof.hashes),
                root=checkpoint.root,
            )


async def test_who_did_something_is_asked_by_those_who_may_know_people(audit: Served) -> None:
    everything = await filled(audit, 12)
    names = {leaf["actor"] for leaf in everything}
    async with audit.reader(Role.AUDITOR) as stub:
        found = leaves(await search(stub, 'actor = "ada"'))
        assert len({leaf["actor"] for leaf in found}) == 1
        assert len(found) == sum(leaf["actor"] == found[0]["actor"] for leaf in everything)
        others = leaves(await search(stub, 'actor != "ada"'))
        assert {leaf["actor"] for leaf in others} == names - {found[0]["actor"]}
        assert leaves(await search(stub, 'actor = "nobody"')) == []
    async with audit.reader(Role.VIEWER) as stub:
        refused = await refusal(stub.SearchEntries(messages.SearchEntriesRequest(filter='actor = "ada"')))
        assert refused.reason == "ROLE_REQUIRED"
        payloads = messages.SearchEntriesRequest(include_payloads=True)
        assert (await refusal(stub.SearchEntries(payloads))).reason == "ROLE_REQUIRED"


async def test_reading_payloads_by_a_search_is_recorded(audit: Served) -> None:
    await filled(audit, 3)
    async with audit.reader(Role.AUDITOR, subject="auditor@example.org") as stub:
        without = messages.SearchEntriesRequest(include_payloads=True, reason=" ")
        assert [v.field for v in (await refusal(stub.SearchEntries(without))).violations] == ["reason"]
        (page,) = await search(stub, 'agent != ""', include_payloads=True, reason="complaint 17")
        assert all(entry.payloads[0].body for entry in page.entries)
        (read,) = leaves(await search(stub, 'type = "PAYLOAD_READ" AND actor = "auditor@example.org"'))
    assert read["attributes"] == {"entries": "3", "parts": "3"}


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"filter": 'nothing = "x"'}, "FILTER_INVALID"),
        ({"filter": 'type = "WHATEVER"'}, "FILTER_INVALID"),
        ({"filter": 'task_id = "7"'}, "FILTER_INVALID"),
        ({"filter": 'recorded_time > "yesterday"'}, "FILTER_INVALID"),
        ({"page_token": "x"}, "PAGE_TOKEN_INVALID"),
        ({"page_size": -1}, "INVALID_FIELDS"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(
    audit: Served, request_: dict[str, Any], reason: str
) -> None:
    async with audit.reader(Role.VIEWER) as stub:
        assert (await refusal(stub.SearchEntries(messages.SearchEntriesRequest(**request_)))).reason == reason


async def test_another_tenant_finds_nothing(audit: Served) -> None:
    await filled(audit, 3)
    async with audit.reader(Role.SUPER_ADMIN, tenant="elsewhere") as stub:
        assert leaves(await search(stub)) == []


_MANY = """
INSERT INTO entry (log_id, event_id, leaf_index, type, producer, producer_sequence, actor, agent,
    agent_version, tool, status, trace_id, span_id, event_time, recorded_time, leaf, leaf_hash)
SELECT %(log)s,
    (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint + (n %% 4) * 28 * 86400000::bigint), 12, '0')
        || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid,
    n, 'type' || n %% 100, 'p', n, 'actor' || n %% 100, 'agent' || n %% 100, '', 'tool' || n %% 100,
    '', '', '', now(), now() + n * interval '1 second', '', %(hash)s
FROM generate_series(0, 19999) AS n
"""


def test_what_a_search_reads_does_not_grow_with_the_log(audit_database: ServiceDatabase) -> None:
    log_id = UUID(int=1)
    with psycopg.connect(audit_database.owner_url, autocommit=True) as connection:
        connection.execute(_MANY, {"log": log_id, "hash": bytes(32)})
        connection.execute("ANALYZE entry")
        connection.execute("SET enable_seqscan = off")
        for field in ("agent", "tool", "type", "actor"):
            (plan,) = connection.execute(
                f"EXPLAIN (ANALYZE, FORMAT JSON) SELECT event_id FROM entry"  # noqa: S608
                f" WHERE log_id = %s AND {field} = '{field}7' AND leaf_index < 20000"
                " ORDER BY recorded_time DESC, leaf_index DESC LIMIT 9",
                [log_id],
            ).fetchone() or ([],)
            scans = list(_scans(plan[0]["Plan"]))
            assert all(f"_{field}_" in scan["Index Name"] for scan in scans)
            # Nine, and one of each month to begin with.
            read = sum(scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0) for scan in scans)
            assert 9 <= read <= 9 + len(scans)


def _scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Plans" not in plan:
        yield plan
    for below in plan.get("Plans", ()):
        yield from _scans(below)
