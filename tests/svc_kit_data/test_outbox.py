"""The relay: everything committed arrives, in order, and only then leaves the outbox."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.database import Database
from svc_kit.errors import Unavailable
from svc_kit.event_log import advance
from svc_kit.outbox import Delivery, Message, OutboxRow, Relay, write_outbox
from tests.svc_kit_data.logbook import Logbook, Receiver, as_they_are, create_tables, note, until


@pytest.fixture
async def book(database: Database) -> Logbook:
    async with database.transaction() as connection:
        await connection.run_sync(create_tables)
    return Logbook(database)


def relay_to(
    database: Database, receiver: Receiver, *, slice_rows: int = 256, poll: float = 0.05
) -> Relay[OutboxRow]:
    return Relay(
        database, build=as_they_are, deliver=receiver.deliver, slice_rows=slice_rows, poll_seconds=poll
    )


@asynccontextmanager
async def running(*relays: Relay[OutboxRow]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def rows_left(database: Database) -> int:
    async with database.autocommit() as connection:
        return int((await connection.execute(sa.text("SELECT count(*) FROM outbox"))).scalar_one())


async def test_rows_arrive_in_order_by_slices_and_leave_the_outbox(database: Database, book: Logbook) -> None:
    notes = [note() for _ in range(25)]
    await book.write(notes)
    receiver = Receiver()
    relay = relay_to(database, receiver, slice_rows=10)
    async with running(relay), asyncio.timeout(30):
        await receiver.holds(25)
        while await rows_left(database):  # noqa: ASYNC110 (a deletion signals nobody)
            await asyncio.sleep(0.005)
    assert receiver.order == [written.note_id for written in notes]
    assert receiver.seqs == list(range(1, 26))
    assert receiver.deliveries == [10, 10, 5]


async def test_a_wake_up_delivers_without_waiting_for_the_poll(database: Database, book: Logbook) -> None:
    receiver = Receiver()
    relay = relay_to(database, receiver, poll=60)
    async with running(relay):
        await until(lambda: relay.leading)
        for count in (1, 2, 3):
            await book.write([note()])
            relay.wake()
            await receiver.holds(count, seconds=5)


async def test_without_a_wake_up_the_poll_finds_the_rows(database: Database, book: Logbook) -> None:
    receiver = Receiver()
    async with running(relay_to(database, receiver, poll=0.05)):
        await book.write([note()])
        await receiver.holds(1)


async def test_a_receiver_that_is_away_delays_rows_and_loses_none(database: Database, book: Logbook) -> None:
    notes = [note() for _ in range(5)]
    await book.write(notes)
    receiver = Receiver()
    receiver.failures = [
        Unavailable(ErrorReason.ERROR_REASON_AUDIT_UNAVAILABLE, "away", retry_after=0.01),
        ConnectionError("reset"),
        TimeoutError(),
        asyncio.CancelledError(),  # type: ignore[list-item]
    ]
    seen: list[Delivery] = []
    relay = Relay(
        database, build=as_they_are, deliver=receiver.deliver, poll_seconds=0.05, observe=seen.append
    )
    async with running(relay):
        await receiver.holds(5)
    assert receiver.order == [written.note_id for written in notes]
    assert [type(delivery.error).__name__ for delivery in seen][:5] == [
        "Unavailable",
        "ConnectionError",
        "TimeoutError",
        "CancelledError",
        "NoneType",
    ]


async def test_a_relay_that_is_ended_ends_also_when_its_transport_fails_in_that_moment(
    database: Database, book: Logbook
) -> None:
    await book.write([note()])
    delivering = asyncio.Event()

    async def deliver(_entries: Sequence[OutboxRow]) -> None:
        delivering.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As a stream does whose peer hangs up just then.
            raise asyncio.InvalidStateError("RPC already finished.") from None

    task = asyncio.create_task(Relay(database, build=as_they_are, deliver=deliver).run())
    await delivering.wait()
    task.cancel()
    async with asyncio.timeout(4):  # sooner than it would be cancelled again
        await asyncio.wait([task])
    assert task.cancelled()


async def test_a_delivery_that_fails_because_the_leader_lost_its_connection_is_no_failure_of_the_leader(
    database: Database, book: Logbook
) -> None:
    await book.write([note()])
    delivering = asyncio.Event()

    async def deliver(_entries: Sequence[OutboxRow]) -> None:
        delivering.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # The same outage takes the database from the receiver too.
            raise ConnectionError("the database is not available") from None

    relay = Relay(database, build=as_they_are, deliver=deliver)
    with capture_logs() as said:
        async with running(relay):
            await delivering.wait()
            async with database.dedicated("test") as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                )
            await until(lambda: not relay.leading)
            delivering.clear()
            await delivering.wait()
    assert not [entry for entry in said if entry["log_level"] == "error"]


async def test_a_delivery_that_hangs_is_given_up_and_tried_again(database: Database, book: Logbook) -> None:
    await book.write([note()])
    receiver = Receiver()
    hang = True

    async def deliver(entries: Sequence[OutboxRow]) -> None:
        nonlocal hang
        if hang:
            hang = False
            await asyncio.Event().wait()
        await receiver.deliver(entries)

    relay = Relay(database, build=as_they_are, deliver=deliver, deliver_seconds=0.05)
    async with running(relay):
        await receiver.holds(1)


async def test_what_precedes_a_row_that_is_refused_still_arrives_and_nothing_overtakes_it(
    database: Database, book: Logbook
) -> None:
    notes = [note() for _ in range(40)]
    await book.write(notes)
    receiver = Receiver()
    receiver.refused = {notes[21].note_id}
    async with running(relay_to(database, receiver, slice_rows=32)):
        await receiver.holds(21)
        receiver.refused.clear()
        await receiver.holds(40)
    assert receiver.seqs == list(range(1, 41))


async def test_of_two_relays_one_leads_and_the_other_takes_over_when_its_connection_is_lost(
    database: Database, book: Logbook
) -> None:
    receiver = Receiver()
    first, second = relay_to(database, receiver), relay_to(database, receiver)
    async with running(first, second):
        await until(lambda: first.leading or second.leading)
        leader, other = (first, second) if first.leading else (second, first)
        assert not other.leading
        async with database.dedicated("test") as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            )
        await until(lambda: not leader.leading)
        await until(lambda: first.leading != second.leading)
        await book.write([note()])
        await receiver.holds(1)


async def test_rows_delivered_but_not_deleted_are_told_again_and_known(
    database: Database, book: Logbook
) -> None:
    await book.write([note(), note()])
    receiver = Receiver()
    async with running(relay_to(database, receiver)):
        await receiver.holds(2)
    async with database.transaction() as connection:  # as after a crash that lost the deletion
        message = Message(tenant="default", event_id=receiver.order[1], kind="NOTE", body={})
        await connection.execute(sa.text("DELETE FROM outbox; UPDATE log_head SET outbox_seq = 1"))
        await write_outbox(connection, await advance(connection, events=0, outbox=1), [message])
    async with running(relay_to(database, receiver)):
        await until(lambda: len(receiver.deliveries) == 2)
    assert len(receiver.order) == 2


async def test_the_backlog_tells_how_many_and_how_old(database: Database, book: Logbook) -> None:
    receiver = Receiver()
    relay = relay_to(database, receiver)
    empty = await relay.backlog()
    assert (empty.count, empty.oldest_seconds) == (0, 0)
    await book.write([note() for _ in range(7)])
    async with database.transaction() as connection:
        await connection.execute(
            sa.text("UPDATE outbox SET create_time = now() - interval '90 s' WHERE seq = 1")
        )
    backlog = await relay.backlog()
    assert backlog.count == 7
    assert 90 <= backlog.oldest_seconds < 120
    async with running(relay), asyncio.timeout(30):
        await receiver.holds(7)
        while (await relay.backlog()).count:  # noqa: ASYNC110 (a deletion signals nobody)
            await asyncio.sleep(0.005)


async def test_messages_and_numbers_must_agree(database: Database, book: Logbook) -> None:
    del book
    message = Message(tenant="t", event_id=uuid.uuid4(), kind="NOTE", body={})
    async with database.transaction() as connection:
        head = await advance(connection, events=0, outbox=2)
        with pytest.raises(ValueError, match="1 messages for numbers 1 to 2"):
            await write_outbox(connection, head, [message])


async def test_a_row_carries_what_was_written(database: Database, book: Logbook) -> None:
    del book
    body = {"text": 'a "quote", ünï, \\ and \n', "list": [1, {"x": None}], "big": 2**60}
    message = Message(tenant="t", event_id=uuid.uuid4(), kind="NOTE", body=body)
    async with database.transaction() as connection:
        await write_outbox(connection, await advance(connection, events=0, outbox=1), [message])
    arrived: list[OutboxRow] = []

    async def deliver(entries: Sequence[OutboxRow]) -> None:
        arrived.extend(entries)

    async with running(Relay(database, build=as_they_are, deliver=deliver)):
        await until(lambda: bool(arrived))
    assert arrived == [OutboxRow(seq=1, tenant="t", event_id=message.event_id, kind="NOTE", body=body)]
