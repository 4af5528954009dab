"""Entries are kept by month, and the months are there before anything is recorded in them."""

import asyncio
import shutil
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import audit_svc
from audit_svc.months import MONTHS_AHEAD, MonthMaker
from audit_svc.months_store import MonthStore
from audit_svc.verification import Flaw
from interlock_suite.databases import ServiceDatabase
from svc_kit.database import Database
from svc_kit.errors import Unavailable
from svc_kit.identity import LocalIssuer
from svc_kit.ids import uuid7
from svc_kit.migrations import run_migrations
from tests.audit.conftest import AdminUrl, Replica, settings_for
from tests.audit.events import new_event
from tests.audit.served import serving
from tests.audit.test_tampering import Tamper
from tests.audit.test_verification import verified
from tests.suite_fixtures import PostgresServer

BEFORE = ("0001_create_log.py", "0002_search.py", "0003_removed_parts.py")


def id_at(when: datetime) -> uuid.UUID:
    """An event id as somebody made it then."""
    milliseconds = int(when.timestamp() * 1000)
    return uuid.UUID(int=milliseconds << 80 | uuid7().int & (1 << 80) - 1)


async def test_a_log_from_before_the_months_is_kept_whole(
    replica: Replica,
    audit_database: ServiceDatabase,
    postgres_server: PostgresServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = datetime.now(UTC)
    ids = [id_at(now - timedelta(days=40 * ago)) for ago in range(4) for _ in range(70)]
    events = tuple(new_event(event_id=event_id) for event_id in ids)
    await replica.log.append_batch(events)
    old = _migrated_as_before(postgres_server, tmp_path, monkeypatch)
    await asyncio.to_thread(_copy, audit_database, old)

    await asyncio.to_thread(run_migrations, "audit_svc", old.owner_url, grants_to=old.service_role)

    upgraded = Replica.over(old.service_url)
    try:
        findings, verdict = await verified(upgraded)
        assert (findings, verdict.root_checked) == ([], True)
        assert verdict.checkpoint.checkpoint.size == len(ids)
        assert (await upgraded.log.append(events[0])).index == 0
        assert (await upgraded.log.append(new_event())).index == len(ids)
    finally:
        await upgraded.close()


def _migrated_as_before(
    server: PostgresServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> ServiceDatabase:
    """A database as the release before the months made it."""
    source, package = Path(audit_svc.__file__).parent / "migrations", folder / "audit_before_svc"
    versions = package / "migrations" / "versions"
    versions.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in BEFORE:
        shutil.copyfile(source / "versions" / name, versions / name)
    monkeypatch.syspath_prepend(folder)
    made = server.make_database("audit")
    run_migrations("audit_before_svc", made.owner_url, grants_to=made.service_role)
    return made


def _copy(source: ServiceDatabase, target: ServiceDatabase) -> None:
    with psycopg.connect(source.owner_url) as read, psycopg.connect(target.owner_url) as write:
        for table in ("log", "log_head", "entry", "payload", "tile", "actor"):
            columns = write.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", [table]
            ).fetchall()
            names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in columns)
            taken = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(names, sql.Identifier(table))
            given = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
            with read.cursor().copy(taken) as rows, write.cursor().copy(given) as copy:
                for row in rows:
                    copy.write(row)


async def test_months_are_made_ahead_once_however_many_ask(audit_database: ServiceDatabase) -> None:
    database = Database(audit_database.service_url)
    try:
        maker = MonthMaker(database, MonthStore(database))
        assert await asyncio.gather(*(maker.make() for _ in range(4))) == [MONTHS_AHEAD] * 4
    finally:
        await database.close()
    with psycopg.connect(audit_database.owner_url) as connection:
        later = connection.execute("SELECT make_months(%s)", [MONTHS_AHEAD + 2]).fetchone()
        assert later == (MONTHS_AHEAD + 2,)
        guards = connection.execute(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r' AND"
            " (SELECT count(*) FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgenabled = 'A') = 0"
        ).fetchall()
        assert guards == []
        connection.rollback()


async def test_a_service_that_finds_months_missing_makes_them(
    audit_database: ServiceDatabase, tmp_path: Path
) -> None:
    """As after a long absence; the months are guarded like all others."""
    with psycopg.connect(audit_database.owner_url) as connection:
        (end,) = connection.execute("SELECT months_end('entry')").fetchone() or (None,)
        gone = connection.execute(
            "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
            " AND relname ~ '_2[0-9]{3}_[0-9]{2}$'"
        ).fetchall()
        assert len(gone) >= 2 * MONTHS_AHEAD
        for (name,) in gone:
            connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    async with serving(settings_for(audit_database, tmp_path), LocalIssuer(tmp_path / "issuer.pem", "test")):
        async with asyncio.timeout(20):
            while await asyncio.to_thread(_months_end, audit_database) != end:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.05)
    with (
        psycopg.connect(audit_database.owner_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(sql.SQL("TRUNCATE {}").format(sql.Identifier(gone[0][0])))


def _months_end(database: ServiceDatabase) -> object:
    with psycopg.connect(database.owner_url) as connection:
        return (connection.execute("SELECT months_end('entry')").fetchone() or (None,))[0]


async def test_an_event_of_a_month_that_is_not_there_waits_for_it(replica: Replica) -> None:
    ahead = new_event(event_id=id_at(datetime.now(UTC) + timedelta(days=400)))
    with pytest.raises(Unavailable, match="no place yet for the month of an event_id"):
        await replica.log.append(ahead)
    assert (await replica.log.append(new_event())).index == 0


async def test_two_entries_of_one_place_in_different_months_are_found(
    replica: Replica, audit_database: ServiceDatabase, admin_url_of: AdminUrl
) -> None:
    await replica.log.append_batch(tuple(new_event() for _ in range(5)))
    other = id_at(datetime.now(UTC) + timedelta(days=70))
    tamper = Tamper(admin_url_of(audit_database))
    await tamper(
        "CREATE TEMP TABLE copied AS SELECT * FROM entry WHERE leaf_index = 3",
        f"UPDATE copied SET event_id = '{other}'",  # noqa: S608 - an id of our own
        "INSERT INTO entry SELECT * FROM copied",
    )
    findings, _ = await verified(replica)
    assert (3, Flaw.LEAF, "2 entries claim this place") in {(f.index, f.flaw, f.message) for f in findings}
