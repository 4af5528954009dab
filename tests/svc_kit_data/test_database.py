"""Transactions, and what callers see when Postgres is not there."""

import asyncio
import traceback
import uuid

import psycopg
import pytest
import sqlalchemy as sa

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.database import Database, database_url
from svc_kit.errors import Unavailable
from tests.suite_fixtures import PostgresServer, ServiceDatabase
from tests.svc_kit_data.crash import crash


async def create_numbers(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(sa.text("CREATE TABLE numbers (n int PRIMARY KEY)"))


async def insert(database: Database, number: int) -> None:
    async with database.transaction() as connection:
        await connection.execute(sa.text("INSERT INTO numbers VALUES (:n)"), {"n": number})


async def numbers(database: Database) -> list[int]:
    async with database.autocommit() as connection:
        return list((await connection.execute(sa.text("SELECT n FROM numbers ORDER BY n"))).scalars())


async def terminate_others(database: Database) -> None:
    """Ends every other connection of this database, as an administrator would."""
    async with database.dedicated("test") as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


async def test_a_transaction_commits_at_its_end_and_rolls_back_when_its_block_raises(
    database: Database,
) -> None:
    await create_numbers(database)
    await insert(database, 1)

    async def insert_and_fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(sa.text("INSERT INTO numbers VALUES (2)"))
            raise KeyError

    with pytest.raises(KeyError):
        await insert_and_fail()
    assert await numbers(database) == [1]


async def test_transactions_are_read_committed_and_bounded_in_time(url: str) -> None:
    database = Database(url, application_name="kit test", statement_timeout=1.5, lock_timeout=0.25)
    shown = {}
    async with database.transaction() as connection:
        for name in (
            "transaction_isolation",
            "statement_timeout",
            "lock_timeout",
            "application_name",
            "timezone",
        ):
            shown[name] = (await connection.execute(sa.text(f"SHOW {name}"))).scalar_one()
    await database.close()
    assert shown == {
        "transaction_isolation": "read committed",
        "statement_timeout": "1500ms",
        "lock_timeout": "250ms",
        "application_name": "kit test",
        "timezone": "UTC",
    }


async def test_an_error_of_the_statement_passes_unchanged(database: Database) -> None:
    await create_numbers(database)
    await insert(database, 1)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await insert(database, 1)


async def test_no_error_quotes_the_parameters_of_its_statement(database: Database) -> None:
    for secret in ("s3cret", "s3cret\0"):
        built: sa.Executable = sa.select(sa.literal(secret), sa.column("nowhere"))
        for statement, parameters in ((built, {}), (sa.text("SELECT nowhere, :told"), {"told": secret})):
            with pytest.raises(Exception, match=r"nowhere|NUL") as raised:
                async with database.transaction() as connection:
                    await connection.execute(statement, parameters)
            assert "s3cret" not in "".join(traceback.format_exception(raised.value))


async def test_no_server_is_unavailable_with_a_time_to_come_back() -> None:
    database = Database(f"postgresql://nobody@/none?host=/nowhere/{uuid.uuid4().hex}")
    with pytest.raises(Unavailable) as raised:
        await database.ping()
    assert raised.value.reason == ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE
    assert raised.value.retry_after == 1.0
    assert "/nowhere" not in str(raised.value)
    with pytest.raises(Unavailable):
        async with database.dedicated("test"):
            pass
    await database.close()


async def test_a_connection_ended_by_an_administrator_in_use_is_unavailable(database: Database) -> None:
    async def lose_it() -> None:
        async with database.transaction() as connection:
            await connection.execute(sa.text("SELECT 1"))
            await terminate_others(database)
            await connection.execute(sa.text("SELECT 1"))

    with pytest.raises(Unavailable):
        await lose_it()
    await database.ping()


async def test_a_connection_ended_by_an_administrator_while_idle_is_replaced_unseen(
    database: Database,
) -> None:
    await asyncio.gather(*(database.ping() for _ in range(8)))
    await terminate_others(database)
    await asyncio.gather(*(database.ping() for _ in range(8)))


async def test_too_many_connections_is_unavailable(place: ServiceDatabase, database: Database) -> None:
    async with database.dedicated("test") as connection:
        await connection.execute(f"ALTER DATABASE {place.name} CONNECTION LIMIT 0".encode())
    crowded = Database(place.service_url)
    with pytest.raises(Unavailable):
        await crowded.ping()
    await crowded.close()


async def test_a_pool_in_full_use_is_unavailable_after_its_time(url: str) -> None:
    database = Database(url, pool_size=1, pool_timeout=0.05)
    async with database.transaction() as connection:
        await connection.execute(sa.text("SELECT 1"))
        with pytest.raises(Unavailable):
            await database.ping()
    await database.ping()
    await database.close()


@pytest.mark.parametrize("timeout", ["statement_timeout", "lock_timeout"])
async def test_a_statement_out_of_time_is_unavailable(url: str, timeout: str) -> None:
    # Who holds the lock has all the time that it takes.
    patient, database = Database(url), Database(url, **{timeout: 0.05})  # type: ignore[arg-type]
    await create_numbers(patient)
    async with patient.transaction() as holder:
        await holder.execute(sa.text("LOCK TABLE numbers"))
        with pytest.raises(Unavailable):
            await numbers(database)
    await database.close()
    await patient.close()


async def test_a_deadlock_is_unavailable_for_one_and_done_for_the_other(database: Database) -> None:
    await create_numbers(database)
    await insert(database, 1)
    await insert(database, 2)
    both_hold = asyncio.Barrier(2)

    async def lock_both(first: int, second: int) -> None:
        async with database.transaction() as connection:
            statement = sa.text("UPDATE numbers SET n = n WHERE n = :n")
            await connection.execute(statement, {"n": first})
            await both_hold.wait()
            await connection.execute(statement, {"n": second})

    results = await asyncio.gather(lock_both(1, 2), lock_both(2, 1), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "Unavailable"]


async def test_a_restarted_server_is_found_again_by_itself(
    postgres_server: PostgresServer, database: Database
) -> None:
    await create_numbers(database)
    await asyncio.gather(*(insert(database, n) for n in range(20)))
    crash(postgres_server)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await insert(database, 99)
    postgres_server.start()
    await insert(database, 20)
    assert await numbers(database) == list(range(21))


async def test_a_cancelled_transaction_gives_its_connection_back_clean(url: str) -> None:
    database = Database(url, pool_size=1)
    await create_numbers(database)
    started = asyncio.Event()

    async def long() -> None:
        async with database.transaction() as connection:
            await connection.execute(sa.text("INSERT INTO numbers VALUES (1)"))
            started.set()
            await connection.execute(sa.text("SELECT pg_sleep(30)"))

    task = asyncio.create_task(long())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await numbers(database) == []
    await database.close()


async def test_a_connection_lost_in_the_moment_of_a_cancellation_does_not_hide_it(database: Database) -> None:
    waiting = asyncio.Event()

    async def cut_off() -> None:
        async with database.autocommit():
            waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise psycopg.OperationalError("the connection is lost")

    task = asyncio.create_task(cut_off())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_spelling_of_the_url_is_taken(scheme: str) -> None:
    assert database_url(f"{scheme}://u:p@h:1/d").drivername == "postgresql+psycopg"


def test_another_database_is_refused_without_showing_the_password() -> None:
    with pytest.raises(ValueError, match="not a PostgreSQL URL") as raised:
        database_url("mysql://u:secret@h/d")
    assert "secret" not in str(raised.value)
