"""Contents go when their time is over, not before, and not while something holds them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit_svc.event import NewEvent
from audit_svc.holds import Holds, Selector
from audit_svc.holds_store import HoldStore
from audit_svc.log import AuditLog
from audit_svc.removal_store import PlacedPart, remove_parts
from audit_svc.removals import Removals
from audit_svc.retention import CLASSES, RetentionClass, Rule, Rules
from audit_svc.retention_policies import RetentionPolicies
from audit_svc.retention_store import RetentionStore
from audit_svc.sweep import OLDEST, RetentionSweeper, Sweep
from interlock.verify.entry import parse_leaf
from interlock_suite.databases import ServiceDatabase
from svc_kit.clock import ManualClock, SystemClock
from svc_kit.errors import FailedPrecondition, InvalidArgument, NotFound
from svc_kit.ids import uuid7
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import PROMPT, TASK, new_event
from tests.audit.served import ORIGIN

DAY = 24 * 3600.0
CONTENT = RetentionClass.CONTENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The parts of retention over one log, at a time that the test sets."""

    replica: Replica
    clock: ManualClock
    log: AuditLog
    removals: Removals
    policies: RetentionPolicies
    holds: Holds
    sweep: Sweep
    store: RetentionStore

    @classmethod
    def over(cls, replica: Replica, *, days_ago: int = 0) -> "Retention":
        clock = ManualClock(SystemClock().now() - timedelta(days=days_ago))
        log = AuditLog(replica.store, clock, origin_prefix=ORIGIN)
        store = RetentionStore(replica.database)
        removals = Removals(log, clock)
        return cls(
            replica=replica,
            clock=clock,
            log=log,
            removals=removals,
            policies=RetentionPolicies(log, replica.store, store, clock),
            holds=Holds(log, replica.store, HoldStore(replica.database), store, clock),
            sweep=Sweep(store, removals, clock),
            store=store,
        )

    async def set(self, **rules: Rule) -> Rules:
        named = {RetentionClass(name.upper()): rule for name, rule in rules.items()}
        return await self.policies.put("default", named, actor="ada")

    async def entries(self) -> Sequence[tuple[str, int]]:
        """(status or type, parts) of every entry."""
        size = (await self.replica.checkpoints.newest("default")).checkpoint.size
        found = await self.replica.between("default", 0, size, with_bodies=False)
        leaves = [(parse_leaf(entry.leaf), entry) for entry in found]
        return [(leaf.fields.get("status", leaf.type), len(entry.parts)) for leaf, entry in leaves]

    async def flaws(self) -> list[Any]:
        told = [each async for each in self.replica.verifier.run("default", begin=0, end=0)]
        return [finding for each in told for finding in each.findings]


@pytest.fixture
async def retention(replica: Replica) -> AsyncIterator[Retention]:
    made = Retention.over(replica)
    yield made
    await made.log.close()


async def test_contents_go_after_their_days_and_an_entry_lists_them(retention: Retention) -> None:
    await retention.log.append_batch((new_event(), new_event(type="ERROR"), new_event()))
    await retention.set(content=Rule(payload_max_days=30))
    retention.clock.advance(30 * DAY - 1)
    assert await retention.sweep.run() == 0
    retention.clock.advance(1)
    (told, complete) = await retention.sweep.preview(
        (await retention.replica.store.logs(["default"]))["default"].log_id,
        await retention.policies.get("default"),
    )
    assert (told[CONTENT].due, told[CONTENT].held, complete) == (2, 0, True)
    assert await retention.sweep.run() == 2
    assert await retention.sweep.run() == 0
    assert await retention.entries() == [
        ("PROMPT", 0),
        ("ERROR", 1),
        ("PROMPT", 0),
        ("POLICY_SET", 0),
        ("REMOVED", 1),
    ]
    assert await retention.flaws() == []
    assert OLDEST._value.get() == 0


async def test_more_than_one_piece_goes_piece_by_piece(
    retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit_svc.sweep.PIECE", 7)
    parts = (PROMPT, PROMPT.__class__(name="more", content_type="text/plain", body=b"x"))
    await retention.log.append_batch(tuple(new_event(parts=parts) for _ in range(10)))
    await retention.set(content=Rule(payload_max_days=1))
    retention.clock.advance(DAY)
    assert await retention.sweep.run() == 20
    assert [status for status, _ in await retention.entries()].count("REMOVED") == 3
    assert await retention.flaws() == []


async def test_what_is_held_stays_until_it_is_released(retention: Retention) -> None:
    other = uuid7()
    events = (new_event(), new_event(task_id=other), new_event(task_id=other, agent="clerk"))
    await retention.log.append_batch(events)
    await retention.set(content=Rule(payload_max_days=1))
    hold = await retention.holds.place(
        "default", Selector(task_id=other, agent="clerk"), reason="case 7", actor="ada"
    )
    whole = await retention.holds.place(
        "default", Selector(task_id=TASK, actor="dev@example.org"), reason="case 8", actor="ada"
    )
    assert await retention.holds.held("default", [event.event_id for event in events]) == {
        events[0].event_id: f"hold {whole.hold_id}",
        events[2].event_id: f"hold {hold.hold_id}",
    }
    retention.clock.advance(DAY)
    assert await retention.sweep.run() == 1
    with pytest.raises(FailedPrecondition, match=f"hold {hold.hold_id}"):
        await retention.removals.remove(
            "default",
            [PlacedPart(events[2].event_id, 2, PROMPT.name)],
            kind="ERASURE",
            actor="ada",
            attributes={},
        )
    first = await retention.holds.release("default", hold.hold_id, reason="closed", actor="ada")
    again = await retention.holds.release("default", hold.hold_id, reason="twice", actor="bob")
    assert again == await retention.holds.release("default", hold.hold_id, reason="x", actor="y")
    assert first.release is not None and again.release is not None and again.release.reason == "closed"
    assert await retention.sweep.run() == 1
    assert [parts for status, parts in await retention.entries() if status == "PROMPT"] == [1, 0, 0]
    assert [status for status, _ in await retention.entries()].count("RELEASED") == 1
    listed = await retention.holds.page("default", before=None, released=True, limit=10)
    assert [each.hold_id for each in listed] == [whole.hold_id, hold.hold_id]
    assert await retention.holds.page("default", before=whole.hold_id, released=False, limit=10) == []
    assert await retention.flaws() == []


async def test_a_hold_needs_something_that_is_there(retention: Retention) -> None:
    with pytest.raises(InvalidArgument, match=r"has caused nothing"):
        await retention.holds.place("default", Selector(actor="nobody"), reason="x", actor="ada")
    with pytest.raises(NotFound):
        await retention.holds.release("default", uuid7(), reason="x", actor="ada")
    assert await retention.holds.held("default", [uuid7()]) == {}


async def test_nobody_removes_a_content_before_its_minimum(
    retention: Retention, audit_database: ServiceDatabase
) -> None:
    event = new_event()
    await retention.log.append(event)
    await retention.set(content=Rule(payload_min_days=10))
    with pytest.raises(FailedPrecondition, match="minimum 10"):
        await retention.removals.remove(
            "default",
            [PlacedPart(event.event_id, 0, PROMPT.name)],
            kind="ERASURE",
            actor="ada",
            attributes={},
        )
    # Nothing of it stands, and no list of the log claims that it went.
    assert await retention.entries() == [("PROMPT", 1), ("POLICY_SET", 0)]
    with psycopg.connect(audit_database.owner_url) as connection:
        connection.execute(
            "WITH told AS (SELECT log_id, event_id FROM entry WHERE type = 'RETENTION')"
            " INSERT INTO removed_part SELECT entry.log_id, entry.event_id, 'input', told.event_id"
            " FROM entry, told WHERE entry.type = 'PROMPT'"
        )
        for month in (b"payload", b"payload_before"):
            with pytest.raises(psycopg.errors.RestrictViolation, match="is kept"), connection.transaction():
                connection.execute(b"DELETE FROM " + month)


async def test_a_locked_class_can_only_be_kept_longer(retention: Retention) -> None:
    await retention.set(content=Rule(payload_min_days=10, payload_max_days=20, locked=True))
    for shorter in (
        Rule(payload_min_days=10, payload_max_days=20),
        Rule(payload_min_days=9, payload_max_days=20, locked=True),
        Rule(payload_min_days=10, payload_max_days=19, locked=True),
    ):
        with pytest.raises(FailedPrecondition, match="CONTENT is locked"):
            await retention.set(content=shorter, error=Rule(payload_max_days=1))
    rules = await retention.set(content=Rule(payload_min_days=11, locked=True))
    assert (rules[CONTENT].payload_min_days, rules[CONTENT].payload_max_days) == (11, 0)
    # What was refused left nothing, also not of the class that could have changed.
    assert rules[RetentionClass.ERROR].update_time is None
    assert [status for status, _ in await retention.entries()] == ["POLICY_SET", "POLICY_SET"]


async def test_of_two_changes_at_once_the_lock_is_not_lost(retention: Retention) -> None:
    locking = [retention.set(content=Rule(payload_min_days=days, locked=True)) for days in range(5, 25)]
    answers = await asyncio.gather(*locking, return_exceptions=True)
    done = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert done and all(isinstance(a, FailedPrecondition) for a in answers if a not in done)
    assert (await retention.policies.get("default"))[CONTENT].payload_min_days == max(
        answer[CONTENT].payload_min_days for answer in done
    )


async def test_a_hold_that_comes_during_a_sweep_wins(
    retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held after the sweep looked, and before it removes: the database refuses, and nothing of it stands."""
    await retention.log.append_batch((new_event(), new_event(agent="clerk")))
    await retention.set(content=Rule(payload_max_days=1))
    retention.clock.advance(DAY)
    looked = retention.store.kept

    async def look_and_be_late(*asked: Any) -> Mapping[Any, str]:
        kept = await looked(*asked)
        await retention.holds.place("default", Selector(agent="clerk"), reason="late", actor="ada")
        return kept

    monkeypatch.setattr(retention.store, "kept", look_and_be_late)
    assert await retention.sweep.run() == 0
    assert OLDEST._value.get() == 0
    monkeypatch.setattr(retention.store, "kept", looked)
    assert await retention.sweep.run() == 1
    assert [parts for status, parts in await retention.entries() if status == "PROMPT"] == [0, 1]


async def test_two_sweepers_remove_nothing_twice(retention: Retention) -> None:
    await retention.log.append_batch(tuple(new_event() for _ in range(30)))
    await retention.set(content=Rule(payload_max_days=1))
    retention.clock.advance(DAY)
    await asyncio.gather(retention.sweep.run(), retention.sweep.run())
    assert {parts for status, parts in await retention.entries() if status == "PROMPT"} == {0}
    assert await retention.flaws() == []


async def test_a_sweep_whose_database_is_cut_off_midway_is_finished_by_the_next(
    retention: Retention,
    audit_database: ServiceDatabase,
    admin_url_of: AdminUrl,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of a removal, when its rows are deleted and nothing is committed."""
    monkeypatch.setattr("audit_svc.sweep.PIECE", 4)
    await retention.log.append_batch(tuple(new_event() for _ in range(10)))
    await retention.set(content=Rule(payload_max_days=1))
    retention.clock.advance(DAY + 7)
    deleted, pieces = remove_parts, 0

    async def delete_and_be_cut_off(*asked: Any, **more: Any) -> Sequence[str]:
        nonlocal pieces
        pieces += 1
        tables: Sequence[str] = await deleted(*asked, **more)
        if pieces == 2:
            with psycopg.connect(admin_url_of(audit_database), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
        return tables

    monkeypatch.setattr("audit_svc.removals.remove_parts", delete_and_be_cut_off)
    assert await retention.sweep.run() == 0 and pieces == 2
    # Half a sweep: what is still there has been overdue for seven seconds.
    assert OLDEST._value.get() == 7
    assert [parts for status, parts in await retention.entries() if status == "PROMPT"] == [0] * 4 + [1] * 6
    assert await retention.flaws() == []
    assert await retention.sweep.run() == 6
    assert await retention.flaws() == []


async def until(retention: Retention) -> None:
    """Until something was removed."""
    async with asyncio.timeout(10):
        while True:
            if (await retention.entries())[-1][0] == "REMOVED":
                return
            await asyncio.sleep(0.02)


async def test_a_sweeper_begins_by_itself(retention: Retention) -> None:
    await retention.log.append(new_event())
    await retention.set(content=Rule(payload_max_days=1))
    retention.clock.advance(DAY)
    sweeper = asyncio.create_task(RetentionSweeper(retention.replica.database, retention.sweep).run())
    try:
        await until(retention)
    finally:
        sweeper.cancel()
        await asyncio.wait([sweeper])


async def test_the_database_knows_the_same_classes(
    retention: Retention, audit_database: ServiceDatabase
) -> None:
    with psycopg.connect(audit_database.service_url) as connection:
        types = [*CLASSES, "ERASURE", "RETENTION", "HOLD", "KEY_ROTATION"]
        rows = connection.execute(
            "SELECT name, retention_class(name) FROM unnest(%s::text[]) AS name", [types]
        ).fetchall()
    assert dict(rows) == {name: CLASSES.get(name) for name in types}


MODEL = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MODEL
@given(
    entries=st.lists(st.tuples(st.sampled_from(["PROMPT", "ERROR"]), st.sampled_from("ab")), max_size=6),
    days=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    held=st.sets(st.sampled_from("ab")),
    steps=st.integers(0, 4),
)
async def test_a_sweep_does_what_the_plain_model_does(
    retention: Retention, entries: list[tuple[str, str]], days: tuple[int, int], held: set[str], steps: int
) -> None:
    tenant = f"t{uuid7().hex[:20]}"
    events: list[NewEvent] = [
        new_event(tenant=tenant, type=kind, agent=agent, parts=(PROMPT,)) for kind, agent in entries
    ]
    for event in events:
        await retention.log.append(event)
    rules = {
        RetentionClass.CONTENT: Rule(payload_max_days=days[0]),
        RetentionClass.ERROR: Rule(payload_max_days=days[1]),
    }
    await retention.policies.put(tenant, rules, actor="ada")
    for agent in held:
        await retention.holds.place(tenant, Selector(agent=agent), reason="x", actor="ada")
    retention.clock.advance(steps * DAY)
    await retention.sweep.run()
    left = await retention.replica.between(tenant, 0, len(events), with_bodies=False) if events else []
    limit = {"PROMPT": days[0], "ERROR": days[1]}
    expected = [0 if 0 < limit[kind] <= steps and agent not in held else 1 for kind, agent in entries]
    assert [len(entry.parts) for entry in left] == expected


async def test_holds_and_rules_cannot_be_changed_by_hand(
    retention: Retention, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    await retention.log.append(new_event())
    await retention.set(content=Rule(payload_min_days=1, locked=True))
    hold = await retention.holds.place("default", Selector(type="PROMPT"), reason="x", actor="ada")
    await retention.holds.release("default", hold.hold_id, reason="x", actor="ada")
    for url in (audit_database.service_url, audit_database.owner_url):
        with psycopg.connect(url, autocommit=True) as connection:
            for table in ("retention_rule", "hold", "hold_release"):
                for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):  # noqa: S608
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement.encode())
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("UPDATE retention_rule SET locked = false")
