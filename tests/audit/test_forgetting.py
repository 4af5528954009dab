"""A name goes and its pseudonym stays: what somebody did is still proven, and nothing tells who it was."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from audit_svc.erasure import ErasureState, Selector
from audit_svc.holds import Selector as HoldSelector
from interlock_suite.databases import ServiceDatabase
from svc_kit.errors import NotFound
from svc_kit.ids import uuid7
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import new_event
from tests.audit.test_erasures import Office
from tests.audit.test_tampering import read_and_verify

ADA = "ada.lovelace@example.org"


@pytest.fixture
async def other(replica: Replica, audit_database: ServiceDatabase) -> AsyncIterator[Replica]:
    """A second service over the same log."""
    made = Replica.over(audit_database.service_url)
    yield made
    await made.close()


async def actor_of(replica: Replica, index: int) -> str:
    (entry,) = await replica.between("default", index, index + 1, with_bodies=False)
    return str(json.loads(entry.leaf)["actor"])


async def test_who_was_forgotten_is_another_one_the_next_time_wherever_that_is(
    replica: Replica, other: Replica
) -> None:
    for each in (replica, other, replica):
        await each.log.append(new_event(actor=ADA))
    before = await actor_of(replica, 0)
    assert await actor_of(replica, 2) == before
    office = Office(replica)
    done = await office.after_a_round(await office.begin(Selector(actor=ADA)))
    assert (done.state, done.reached) == (ErasureState.COMPLETE, {"audit.actor": 1})
    assert (done.selector.actor, done.explained_by) == (before, (3,))
    # Both remembered her.
    for each in (other, replica):
        await each.log.append(new_event(actor=ADA))
    after = await actor_of(replica, 4)
    assert after != before and await actor_of(replica, 5) == after
    name = (await replica.store.logs(["default"]))["default"]
    assert await replica.store.pseudonym(name.log_id, ADA) == after
    # What she did before is proven as ever.
    report = await read_and_verify(replica)
    assert report.ok and report.entries_included == 5
    told = [f async for each in replica.verifier.run("default", begin=0, end=0) for f in each.findings]
    assert told == []


async def test_an_entry_says_that_somebody_was_forgotten_and_not_who(replica: Replica) -> None:
    await replica.log.append(new_event(actor=ADA))
    office = Office(replica)
    begun = await office.begin(Selector(actor=ADA))
    await office.after_a_round(begun)
    (entry,) = await replica.between("default", 1, 2, with_bodies=True)
    leaf = json.loads(entry.leaf)
    assert (leaf["type"], leaf["status"]) == ("ERASURE", "ACTOR_FORGOTTEN")
    assert leaf["attributes"] == {
        "erasure_id": str(begun.erasure_id),
        "forgotten": await actor_of(replica, 0),
    }
    assert [part.body for part in entry.parts] == [b"asked to"]


async def test_nothing_in_the_database_names_her_nor_do_its_files(
    replica: Replica, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    await replica.log.append(new_event(actor=ADA))
    # She asked for an erasure herself, and the journal names who did.
    office = Office(replica)
    hers = await office.erasures.begin(
        "default", Selector(actor=ADA), reason="my own", requester=ADA, request_id=uuid7()
    )
    with psycopg.connect(admin_url_of(audit_database), autocommit=True) as connection:
        assert "erasure" in tables_with(connection, ADA)
        connection.execute("CHECKPOINT")
        assert in_the_file(connection, "actor", ADA)
        done = await office.after_a_round(hers)
        assert done.state is ErasureState.COMPLETE
        assert done.reached == {"audit.actor": 2} and done.requester == done.selector.actor
        connection.execute("CHECKPOINT")
        assert tables_with(connection, ADA) == set()
        assert not in_the_file(connection, "actor", ADA)


def tables_with(connection: "psycopg.Connection[tuple[object, ...]]", text: str) -> set[str]:
    names = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    ).fetchall()
    return {
        str(name)
        for (name,) in names
        if connection.execute(
            f'SELECT EXISTS (SELECT FROM "{name}" AS each WHERE each::text LIKE %s)'.encode(),  # noqa: S608
            [f"%{text}%"],
        ).fetchone()
        == (True,)
    }


def in_the_file(connection: "psycopg.Connection[tuple[object, ...]]", table: str, text: str) -> bool:
    found = connection.execute(
        "SELECT current_setting('data_directory'), pg_relation_filepath(%s)", [table]
    ).fetchone()
    assert found is not None
    return text.encode() in (Path(str(found[0])) / str(found[1])).read_bytes()


async def test_whoever_is_held_is_not_forgotten_until_that_ends(replica: Replica) -> None:
    await replica.log.append(new_event(actor=ADA))
    office = Office(replica)
    hold = await office.holds.place("default", HoldSelector(actor=ADA), reason="case 7", actor="bob")
    begun = await office.begin(Selector(actor=ADA))
    waits = await office.after_a_round(begun)
    assert waits.state is ErasureState.RUNNING and f"hold {hold.hold_id}" in waits.waiting_for
    await office.holds.release("default", hold.hold_id, reason="closed", actor="bob")
    assert (await office.after_a_round(begun)).state is ErasureState.COMPLETE


async def test_a_repeat_of_the_request_is_answered_as_before_though_the_name_is_gone(
    replica: Replica,
) -> None:
    await replica.log.append(new_event(actor=ADA))
    office, request_id = Office(replica), uuid.uuid4()
    begun = await office.begin(Selector(actor=ADA), request_id=request_id)
    await office.after_a_round(begun)
    again = await office.begin(Selector(actor=ADA), request_id=request_id)
    assert again.erasure_id == begun.erasure_id
    with pytest.raises(NotFound, match=ADA):
        await office.begin(Selector(actor=ADA), request_id=uuid.uuid4())


async def test_several_runners_forget_once(replica: Replica) -> None:
    await replica.log.append(new_event(actor=ADA))
    office = Office(replica)
    begun = await office.begin(Selector(actor=ADA))
    await asyncio.gather(*(Office(replica).runner.once() for _ in range(3)))
    done = await office.after_a_round(begun)
    assert (done.state, done.reached["audit.actor"]) == (ErasureState.COMPLETE, 1)


async def test_the_database_lets_no_name_go_unless_an_entry_says_so(
    replica: Replica, audit_database: ServiceDatabase
) -> None:
    await replica.log.append(new_event(actor=ADA))
    claim = (
        "INSERT INTO forgotten_actor SELECT log_id, pseudonym,"
        " (SELECT event_id FROM entry WHERE leaf_index = 0) FROM actor"
    )
    for url in (audit_database.service_url, audit_database.owner_url):
        with psycopg.connect(url) as connection:
            connection.execute(claim.encode())
            for refused in (
                "DELETE FROM actor",
                "TRUNCATE actor",
                "UPDATE actor SET subject = 'x'",
                "DELETE FROM forgotten_actor",
            ):
                with (
                    pytest.raises(psycopg.errors.InsufficientPrivilege),
                    connection.transaction(),
                ):
                    connection.execute(refused.encode())
            connection.rollback()
