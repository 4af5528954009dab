"""What the database itself refuses, to the service's role and to the owner alike."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from audit_svc.months import MONTHS_AHEAD
from audit_svc.removal_store import PlacedPart
from interlock_suite.databases import ServiceDatabase
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import new_event

TABLES = (
    "log",
    "log_head",
    "entry",
    "payload",
    "removed_part",
    "payload_text",
    "tile",
    "checkpoint",
    "actor",
)


@pytest.fixture
async def filled(replica: Replica, audit_database: ServiceDatabase) -> ServiceDatabase:
    """A database in which each table holds something, for a refusal to change nothing would show nothing."""
    events = tuple(new_event() for _ in range(260))
    await replica.log.append_batch(events)
    removed = [PlacedPart(events[0].event_id, 0, events[0].parts[0].name)]
    await replica.removals.remove("default", removed, kind="ERASURE", actor="", attributes={})
    await replica.checkpoints.newest("default")
    await replica.texts.once()
    return audit_database


@pytest.fixture(params=["service", "owner"])
def connection(
    filled: ServiceDatabase, request: pytest.FixtureRequest
) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    url = filled.service_url if request.param == "service" else filled.owner_url
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("table", TABLES)
def test_rows_can_be_neither_deleted_nor_truncated(
    connection: psycopg.Connection[tuple[object, ...]], table: str
) -> None:
    name = sql.Identifier(table)
    for statement in ("DELETE FROM {}", "TRUNCATE {} CASCADE"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(sql.SQL(statement).format(name))
    left = connection.execute(sql.SQL("SELECT count(*) > 0 FROM {}").format(name)).fetchone()
    assert left == (True,)


def test_the_months_refuse_as_much_when_they_are_named_directly(
    connection: psycopg.Connection[tuple[object, ...]],
) -> None:
    months = connection.execute(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' ORDER BY 1"
    ).fetchall()
    assert len(months) >= 2 * (1 + MONTHS_AHEAD)
    for (month,) in months:
        name = sql.Identifier(str(month))
        # Entries and contents are held one by one, and in the months to come there are none.
        empty = str(month).startswith(("entry_2", "payload_2", "payload_text_2"))
        for statement in ("TRUNCATE {}", "UPDATE {} SET log_id = log_id", "DELETE FROM {}")[
            : 2 if empty else 3
        ]:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL(statement).format(name))


@pytest.mark.parametrize(
    "statement",
    [
        b"UPDATE entry SET agent = 'other'",
        b"UPDATE entry SET leaf = ''",
        b"UPDATE payload SET body = ''",
        b"UPDATE removed_part SET part = 'other'",
        # A claim alone lets nothing go: the entry that it names has to be there, and of the log itself.
        (
            b"WITH told AS (INSERT INTO removed_part SELECT log_id, event_id, 'x', log_id FROM payload"
            b" RETURNING *) DELETE FROM payload USING told"
        ),
        b"DELETE FROM payload WHERE part = 'removed'",
        b"UPDATE tile SET root = root",
        b"UPDATE checkpoint SET note = ''",
        b"UPDATE actor SET subject = 'other'",
        b"UPDATE log SET tenant = 'other'",
        b"UPDATE log_head SET root = root",
        b"UPDATE log_head SET size = size - 1",
        b"UPDATE log_head SET log_id = gen_random_uuid(), size = size + 1",
    ],
)
def test_what_was_recorded_cannot_be_changed(
    connection: psycopg.Connection[tuple[object, ...]], statement: bytes
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_an_ordinary_role_cannot_put_the_triggers_to_sleep(filled: ServiceDatabase) -> None:
    for url in (filled.service_url, filled.owner_url):
        with (
            psycopg.connect(url, autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("SET session_replication_role = replica")


@pytest.mark.parametrize(
    "statement",
    [b"DROP TABLE entry", b"ALTER TABLE entry DISABLE TRIGGER ALL", b"CREATE TABLE mine (id int)"],
)
def test_the_service_changes_no_schema(filled: ServiceDatabase, statement: bytes) -> None:
    with (
        psycopg.connect(filled.service_url, autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)


def test_the_triggers_hold_for_an_administrator_who_claims_to_be_a_replica(
    filled: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    with psycopg.connect(admin_url_of(filled), autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in (b"DELETE FROM entry", b"TRUNCATE entry_before", b"DELETE FROM payload_before"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
                connection.execute(statement)
