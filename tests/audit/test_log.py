"""Appending to and reading from a log on a real database."""

import asyncio
import json
import uuid
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_svc.canonical import LeafError
from audit_svc.event import NewEvent, Part
from audit_svc.leaf import build_leaf, commitments, new_pseudonym, new_salts, require_fits
from audit_svc.merkle import Frontier
from audit_svc.trail import TrailPage
from interlock.verify import leaf_hash, verify_consistency, verify_inclusion, verify_trail
from interlock_suite.databases import ServiceDatabase
from svc_kit.errors import AlreadyExists, InvalidArgument, NotFound
from svc_kit.ids import uuid7
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import PROMPT, TASK, new_event, parts_of, trail_of
from tests.audit.served import ORIGIN


async def whole_trail(replica: Replica, tenant: str = "default", task: uuid.UUID = TASK) -> list[TrailPage]:
    pages, begin, size = [], 0, 0
    while True:
        page = await replica.reader.trail(tenant, task, limit=100, begin=begin, size=size, with_bodies=True)
        pages.append(page)
        if page.next_index is None:
            return pages
        begin, size = page.next_index, page.checkpoint.checkpoint.size


async def assert_verifies(replica: Replica, *, entries: int, tenant: str = "default") -> None:
    pages = await whole_trail(replica, tenant)
    report = verify_trail(trail_of(TASK, *pages), key=replica.checkpoints.key(tenant))
    assert report.ok, report.findings
    assert report.entries_included == entries


async def test_an_appended_event_is_in_the_tree_with_its_payload(replica: Replica) -> None:
    event = new_event()
    appended = await replica.log.append(event)
    assert (appended.index, appended.tree_size, appended.already_existed) == (0, 1, False)
    proven, signed = await replica.reader.entry("default", event.event_id, with_bodies=True)
    assert signed.checkpoint.origin == f"{ORIGIN}/default"
    assert parts_of(proven.entry)["input"].body == PROMPT.body
    verify_inclusion(
        leaf=appended.leaf_hash, index=0, size=1, proof=proven.proof, root=signed.checkpoint.root
    )
    await assert_verifies(replica, entries=1)


async def test_the_leaf_holds_neither_the_actor_nor_the_payload(replica: Replica) -> None:
    first, second = new_event(), new_event(parts=())
    await replica.log.append_batch((first, second))
    leaves = []
    for event in (first, second):
        proven, _ = await replica.reader.entry("default", event.event_id, with_bodies=False)
        assert b"example.org" not in proven.entry.leaf and b"why" not in proven.entry.leaf
        leaves.append(json.loads(proven.entry.leaf))
    assert leaves[0]["actor"] == leaves[1]["actor"]
    assert leaves[0]["producer"] == "orchestrator" and leaves[0]["task"] == str(TASK)


async def test_the_same_actor_has_another_pseudonym_in_another_log(replica: Replica) -> None:
    events = (new_event(), new_event(tenant="other"))
    await replica.log.append_batch(events)
    pseudonyms = set()
    for event in events:
        proven, _ = await replica.reader.entry(event.tenant, event.event_id, with_bodies=False)
        pseudonyms.add(json.loads(proven.entry.leaf)["actor"])
    assert len(pseudonyms) == 2


async def test_a_repeat_answers_the_first_index(replica: Replica) -> None:
    event = new_event()
    first = await replica.log.append(event)
    await replica.log.append(new_event())
    again = await replica.log.append(event)
    assert (again.index, again.leaf_hash, again.already_existed) == (0, first.leaf_hash, True)
    assert again.tree_size == 2
    await assert_verifies(replica, entries=2)


@pytest.mark.parametrize(
    "change",
    [
        {"status": "OTHER"},
        {"producer": "gateway"},
        {"actor": "someone@example.org"},
        {"attributes": {"extra": "yes"}},
        {"parts": ()},
        {"parts": (replace(PROMPT, body=b'{"ask":"how"}'),)},
        {"parts": (replace(PROMPT, content_type="text/plain"),)},
        {"parts": (PROMPT, replace(PROMPT, name="more"))},
    ],
)
async def test_the_same_id_with_other_content_is_refused(replica: Replica, change: dict[str, Any]) -> None:
    event = new_event()
    await replica.log.append(event)
    with pytest.raises(AlreadyExists) as caught:
        await replica.log.append(replace(event, **change))
    assert caught.value.reason_name == "EVENT_ID_REUSED"
    assert (await replica.checkpoints.newest("default")).checkpoint.size == 1


async def test_a_batch_with_a_reused_id_is_refused_whole_and_spoils_no_other(replica: Replica) -> None:
    event = new_event()
    await replica.log.append(event)
    bad = (new_event(), replace(event, status="OTHER"))
    good = (new_event(), new_event())
    results = await asyncio.gather(
        replica.log.append_batch(bad), replica.log.append_batch(good), return_exceptions=True
    )
    assert isinstance(results[0], AlreadyExists)
    assert isinstance(results[1], tuple) and [a.index for a in results[1]] == [1, 2]
    await assert_verifies(replica, entries=3)


async def test_an_event_twice_in_one_batch_is_one_entry(replica: Replica) -> None:
    event = new_event()
    appended = await replica.log.append_batch((event, event))
    assert [a.index for a in appended] == [0, 0]
    await assert_verifies(replica, entries=1)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text("abc_0", min_size=1, max_size=64), st.text('x"\\é\u20ac ', max_size=512), max_size=32
    ),
    st.integers(0, 8),
)
def test_what_is_let_in_fits_its_leaf(attributes: dict[str, str], parts: int) -> None:
    event = new_event(
        attributes=attributes, parts=tuple(replace(PROMPT, name=f"p{number}") for number in range(parts))
    )
    try:
        require_fits(event, origin="interlock.test/suite/default")
    except LeafError:
        return
    build_leaf(
        event,
        origin="interlock.test/suite/default",
        recorded_at="2026-11-24T00:00:00.123456000Z",
        pseudonym=new_pseudonym(),
        parts=commitments(event, new_salts(event)),
    )


async def test_metadata_that_outgrows_a_leaf_is_refused_before_anything_is_stored(replica: Replica) -> None:
    attributes = {f"key_{i}": "x" * 512 for i in range(20)}
    with pytest.raises(InvalidArgument, match=r"events\[1\].*limit is 8192"):
        await replica.log.append_batch((new_event(), new_event(attributes=attributes)))
    assert (await replica.checkpoints.newest("default")).checkpoint.size == 0


async def test_concurrent_appends_from_two_replicas_make_one_tree_without_gap_or_fork(
    replica: Replica, audit_database: ServiceDatabase
) -> None:
    other = Replica.over(audit_database.service_url)
    tenants = ("default", "blue", "green")
    events = [new_event(tenant=tenants[i % 3]) for i in range(240)]
    # Each replica gets all of them, in another order: every event races against its own repeat.
    writers = [
        asyncio.gather(*(r.log.append(e) for e in order))
        for r, order in ((replica, events), (other, events[::-1]))
    ]
    try:
        ours, theirs = await asyncio.gather(*writers)
    finally:
        await other.close()
    assert [a.index for a in ours] == [a.index for a in reversed(theirs)]
    for tenant in tenants:
        placed = [a.index for a, e in zip(ours, events, strict=True) if e.tenant == tenant]
        assert sorted(placed) == list(range(80))
        await assert_verifies(replica, entries=80, tenant=tenant)


async def test_a_tree_that_became_another_while_a_replica_remembered_it_is_read_anew(
    replica: Replica, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    """As many entries as before, but others: a database that was set back, and has grown again."""
    await replica.log.append_batch(tuple(new_event() for _ in range(3)))
    name = await replica.store.log_of("default")
    assert name is not None
    others = [leaf_hash(bytes([number])) for number in range(3)]
    became = Frontier().extended(others)
    with psycopg.connect(admin_url_of(audit_database)) as connection:
        connection.execute("ALTER TABLE log_head DISABLE TRIGGER USER")
        connection.execute("UPDATE log_head SET frontier = %s, root = %s", [became.to_bytes(), became.root()])
    appended = await replica.log.append(new_event())
    head = await replica.store.head(name.log_id)
    assert (head.size, head.root) == (4, became.extended([appended.leaf_hash]).root())


async def test_proofs_hold_over_full_and_partial_tiles_at_every_size(replica: Replica) -> None:
    leaves, roots = [], {}
    for size in (250, 10, 300, 1, 40):
        batch = tuple(new_event(parts=(), task_id=None) for _ in range(size))
        leaves += [a.leaf_hash for a in await replica.log.append_batch(batch)]
        signed = await replica.checkpoints.newest("default")
        roots[signed.checkpoint.size] = signed.checkpoint.root
    for size, root in roots.items():
        for index in (0, size // 2, size - 1):
            leaf, _, proof = await replica.reader.inclusion("default", index, size)
            assert leaf == leaves[index]
            verify_inclusion(leaf=leaf, index=index, size=size, proof=proof, root=root)
        for earlier, earlier_root in roots.items():
            if earlier <= size:
                _, proof = await replica.reader.consistency("default", earlier, size)
                verify_consistency(
                    old_size=earlier, old_root=earlier_root, new_size=size, new_root=root, proof=proof
                )


async def test_a_trail_is_paged_against_one_checkpoint_while_the_log_grows(replica: Replica) -> None:
    await replica.log.append_batch(tuple(new_event() for _ in range(5)))
    first = await replica.reader.trail("default", TASK, limit=2, begin=0, size=0, with_bodies=True)
    await replica.log.append(new_event())
    pages = [first]
    while (begin := pages[-1].next_index) is not None:
        pages.append(
            await replica.reader.trail("default", TASK, limit=2, begin=begin, size=5, with_bodies=True)
        )
    assert [len(page.entries) for page in pages] == [2, 2, 1]
    report = verify_trail(trail_of(TASK, *pages), key=replica.checkpoints.key("default"))
    assert report.ok and report.entries_included == 5


async def test_a_page_ends_before_it_outgrows_a_message(replica: Replica) -> None:
    large = Part(name="result", content_type="text/plain", body=b"x" * 1024 * 1024)
    await replica.log.append_batch(tuple(new_event(parts=(large,)) for _ in range(4)))
    assert [len(page.entries) for page in await whole_trail(replica)] == [2, 2]
    bare = await replica.reader.trail("default", TASK, limit=100, begin=0, size=0, with_bodies=False)
    assert len(bare.entries) == 4 and bare.entries[0].entry.parts[0].body == b""


async def test_a_tenant_reads_nothing_of_another(replica: Replica) -> None:
    event = new_event(tenant="blue")
    await replica.log.append(event)
    with pytest.raises(NotFound):
        await replica.reader.entry("green", event.event_id, with_bodies=True)
    for tenant in ("green", "default"):
        page = await replica.reader.trail(tenant, TASK, limit=10, begin=0, size=0, with_bodies=True)
        assert page.entries == () and page.checkpoint.checkpoint.size == 0
        with pytest.raises(NotFound):
            await replica.reader.inclusion(tenant, 0, 0)


async def test_an_unknown_entry_is_not_found(replica: Replica) -> None:
    await replica.log.append(new_event())
    with pytest.raises(NotFound):
        await replica.reader.entry("default", uuid7(), with_bodies=False)
    with pytest.raises(NotFound):
        await replica.reader.inclusion("default", 1, 0)


async def test_a_size_beyond_the_log_is_named_as_the_fault(replica: Replica) -> None:
    await replica.log.append(new_event())
    with pytest.raises(InvalidArgument, match="tree_size: must be at most 1"):
        await replica.reader.inclusion("default", 0, 2)
    with pytest.raises(InvalidArgument, match="second_tree_size: must be at most 1"):
        await replica.reader.consistency("default", 1, 2)
    with pytest.raises(InvalidArgument, match="first_tree_size: must be at most 1"):
        await replica.reader.consistency("default", 2, 0)


def test_times_keep_their_nanoseconds() -> None:
    from audit_svc.event import rfc3339

    assert rfc3339(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456789Z"
    assert isinstance(new_event(), NewEvent)
