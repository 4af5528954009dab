"""What the administrator adds: nobody changes the schema by a slip, and readers see one tenant's log."""

import asyncio

import psycopg
import pytest
from psycopg import sql

from interlock_suite.audit_guard import guard_audit, main
from interlock_suite.databases import ServiceDatabase
from svc_kit.migrations import run_migrations
from tests.audit.conftest import AdminUrl, Replica
from tests.audit.events import new_event
from tests.suite_fixtures import PostgresServer

CHANGES = (
    "DROP TABLE payload",
    "DROP TABLE entry_before",
    "ALTER TABLE entry DETACH PARTITION entry_before",
    "ALTER TABLE entry_before DISABLE TRIGGER ALL",
    "ALTER TABLE log_head ADD COLUMN x int",
    "DROP TRIGGER append_only ON entry",
    "ALTER TABLE entry DISABLE ROW LEVEL SECURITY",
    "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
    "CREATE RULE away AS ON INSERT TO entry DO INSTEAD NOTHING",
    "DROP POLICY of_tenant ON entry",
    "DROP SCHEMA interlock_guard CASCADE",
    "DROP FUNCTION interlock_guard.refuse_change() CASCADE",
    "DROP OWNED BY CURRENT_USER",
)
READABLE = ("log", "log_head", "entry", "removed_part", "tile", "checkpoint")


@pytest.fixture(scope="module")
def guarded(postgres_server: PostgresServer) -> ServiceDatabase:
    made = postgres_server.migrated_database("audit")
    # Twice: a suite does it at every upgrade.
    for _ in range(2):
        assert guard_audit(postgres_server.url, database=made.name, service_role=made.service_role)
    return made


def test_the_guard_is_put_in_place_without_a_suite_by_a_superuser_alone(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = postgres_server.migrated_database("audit")
    monkeypatch.delenv("INTERLOCK_DATABASE_URL", raising=False)
    with pytest.raises(SystemExit, match="set INTERLOCK_DATABASE_URL"):
        main()
    monkeypatch.setenv("INTERLOCK_AUDIT_DATABASE_URL", made.service_url)
    monkeypatch.setenv("INTERLOCK_DATABASE_URL", made.owner_url)
    with pytest.raises(SystemExit, match="only a superuser"):
        main()
    monkeypatch.setenv("INTERLOCK_DATABASE_URL", postgres_server.url)
    main()
    with (
        psycopg.connect(made.owner_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="in migrations alone"),
    ):
        connection.execute("DROP TABLE tile")


@pytest.mark.parametrize("who", ["owner", "administrator"])
def test_nobody_takes_the_log_apart_by_a_slip(
    guarded: ServiceDatabase, admin_url_of: AdminUrl, who: str
) -> None:
    url = guarded.owner_url if who == "owner" else admin_url_of(guarded)
    with psycopg.connect(url, autocommit=True) as connection:
        for change in CHANGES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(change.encode())


def test_months_and_migrations_are_made_behind_the_guard(guarded: ServiceDatabase) -> None:
    with psycopg.connect(guarded.service_url, autocommit=True) as connection:
        assert connection.execute("SELECT make_months(5)").fetchone() == (5,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT make_month('entry', '2031-01-01')")
    run_migrations("audit_svc", guarded.owner_url, grants_to=guarded.service_role)
    with psycopg.connect(guarded.owner_url) as connection:
        connection.execute("SELECT make_months(6)")
        # What the function was allowed, its caller is not.
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="in migrations alone"):
            connection.execute("ALTER TABLE entry DETACH PARTITION entry_before")


async def test_a_reader_sees_the_tenant_that_was_named_and_no_contents(
    guarded: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    replica = Replica.over(guarded.service_url)
    try:
        events = [new_event(), new_event(tenant="blue"), new_event(tenant="blue")]
        await replica.log.append_batch(tuple(events))
        await replica.checkpoints.publish()
    finally:
        await replica.close()
    await asyncio.to_thread(_read, admin_url_of(guarded), f"{guarded.service_role}_reader")


def _read(url: str, readers: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(readers)))
        counts = sql.SQL("SELECT count(*) FROM {}")
        for table in READABLE:
            assert connection.execute(counts.format(sql.Identifier(table))).fetchone() == (0,), table
        for tenant, entries in {"default": 1, "blue": 2, "nobody": 0}.items():
            connection.execute("SELECT set_config('audit.tenant', %s, false)", [tenant])
            assert connection.execute("SELECT count(*) FROM entry").fetchone() == (entries,)
            assert connection.execute("SELECT count(*) FROM checkpoint").fetchone() == (min(entries, 1),)
        for table in ("payload", "actor", "entry_before"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(counts.format(sql.Identifier(table)))
        for statement in (
            "DELETE FROM entry",
            "INSERT INTO tile SELECT * FROM tile",
            "UPDATE log_head SET size = 9",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
