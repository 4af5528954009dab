"""Positions: gapless, in commit order, never missed by a reader that follows them."""

import asyncio
import random

import pytest
import sqlalchemy as sa

from svc_kit.database import Database
from svc_kit.event_log import advance, read_head
from tests.svc_kit_data.logbook import create_tables


@pytest.fixture(autouse=True)
async def tables(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.run_sync(create_tables)


async def test_a_transaction_gets_exactly_the_positions_and_numbers_it_asks_for(database: Database) -> None:
    async with database.transaction() as connection:
        first = await advance(connection, events=3, outbox=2)
    async with database.transaction() as connection:
        second = await advance(connection, events=0, outbox=1)
    assert (first.first_position, first.position, first.first_seq, first.seq) == (1, 3, 1, 2)
    assert (second.first_position, second.position, second.first_seq, second.seq) == (4, 3, 3, 3)
    assert first.log_id == second.log_id
    async with database.autocommit() as connection:
        head = await read_head(connection)
    assert (head.position, head.seq, head.log_id) == (3, 3, first.log_id)


async def test_a_count_below_zero_is_refused(database: Database) -> None:
    async with database.transaction() as connection:
        with pytest.raises(ValueError, match="negative"):
            await advance(connection, events=-1)


async def test_every_database_has_a_log_id_of_its_own(database: Database) -> None:
    async with database.transaction() as connection:
        before = (await read_head(connection)).log_id
        await connection.execute(sa.text("DROP TABLE log_head; DROP TABLE outbox; DROP TABLE notes"))
        await connection.run_sync(create_tables)
        assert (await read_head(connection)).log_id != before


async def test_a_reader_that_follows_positions_never_misses_one_while_eight_writers_commit_and_roll_back(
    url: str,
) -> None:
    database = Database(url, pool_size=10)
    written: list[int] = []
    insert = sa.text(
        "INSERT INTO notes SELECT gen_random_uuid(), generate_series(CAST(:first AS bigint), :last)"
    )

    async def write_once(dice: random.Random) -> None:
        events = dice.randint(1, 3)
        async with database.transaction() as connection:
            head = await advance(connection, events=events)
            await connection.execute(insert, {"first": head.first_position, "last": head.position})
            await connection.execute(sa.text("SELECT pg_sleep(:s)"), {"s": dice.random() / 500})
            if dice.random() < 0.3:
                raise ZeroDivisionError
        written.extend(range(head.first_position, head.position + 1))

    async def write(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(25):
            try:
                await write_once(dice)
            except ZeroDivisionError:
                continue

    read: list[int] = []

    async def follow() -> None:
        query = sa.text("SELECT position FROM notes WHERE position > :cursor ORDER BY position")
        cursor = 0
        while not (done.is_set() and read and cursor == max(written)):
            async with database.autocommit() as connection:
                found = list((await connection.execute(query, {"cursor": cursor})).scalars())
            read.extend(found)
            cursor = read[-1] if read else 0

    done = asyncio.Event()
    reader = asyncio.create_task(follow())
    await asyncio.gather(*(write(seed) for seed in range(8)))
    done.set()
    async with asyncio.timeout(30):
        await reader
    await database.close()
    assert len(written) > 150
    assert read == sorted(written) == list(range(1, len(written) + 1))
