"""Migrations of a service that these tests write themselves, run on a real database by its two roles."""

import itertools
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from svc_kit.migrations import MigrationError, migrate_main, pending, run_migrations
from tests.suite_fixtures import ServiceDatabase

_numbers = itertools.count()

FIRST = """
    from alembic import op
    from svc_kit.event_log import create_log_head

    revision = "0001"
    down_revision = None

    def upgrade() -> None:
        create_log_head(op)
        op.execute("CREATE TABLE notes (id bigserial PRIMARY KEY, text text)")
"""
SECOND = """
    from alembic import op
    from svc_kit.migrations import service_role

    revision = "0002"
    down_revision = "0001"

    def upgrade() -> None:
        op.execute("CREATE TABLE secrets (id int PRIMARY KEY)")
        op.execute("INSERT INTO notes (text) VALUES ('made by 0002')")
        if service_role() is not None:
            op.execute(f'GRANT SELECT (id) ON secrets TO "{service_role()}"')
"""
FAILING = """
    from alembic import op

    revision = "0002"
    down_revision = "0001"

    def upgrade() -> None:
        op.execute("CREATE TABLE half_made (id int)")
        op.execute("SELECT 1 / 0")
"""

MakePackage = Callable[..., str]


@pytest.fixture
def make_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePackage:
    monkeypatch.syspath_prepend(tmp_path)

    def make(*versions: str, grants: str | None = None) -> str:
        name = f"made{next(_numbers)}_svc"
        folder = tmp_path / name / "migrations" / "versions"
        folder.mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
        if grants is not None:
            (tmp_path / name / "migrations" / "__init__.py").write_text(f"GRANTS = {grants}\n")
        for number, version in enumerate(versions, 1):
            (folder / f"{number:04}_made.py").write_text(textwrap.dedent(version))
        return name

    return make


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def migrate(package: str, place: ServiceDatabase) -> None:
    run_migrations(package, place.owner_url, grants_to=place.service_role)


def test_an_empty_database_is_brought_to_the_newest_version_and_a_second_run_changes_nothing(
    make_package: MakePackage, place: ServiceDatabase
) -> None:
    package = make_package(FIRST, SECOND)
    assert pending(package, place.owner_url)
    migrate(package, place)
    migrate(package, place)
    assert not pending(package, place.service_url)
    assert rows(place.service_url, "SELECT version_num FROM schema_version") == [("0002",)]
    assert rows(place.service_url, "SELECT text FROM notes") == [("made by 0002",)]
    assert rows(place.service_url, "SELECT position, outbox_seq FROM log_head") == [(0, 0)]


def test_the_service_role_may_change_rows_and_nothing_else(
    make_package: MakePackage, place: ServiceDatabase
) -> None:
    migrate(make_package(FIRST, SECOND), place)
    assert rows(place.service_url, "INSERT INTO notes (text) VALUES ('a') RETURNING text") == [("a",)]
    assert rows(place.service_url, "UPDATE notes SET text = 'b' WHERE text = 'a' RETURNING text") == [("b",)]
    assert rows(place.service_url, "DELETE FROM notes WHERE text = 'b' RETURNING text") == [("b",)]
    for forbidden in (
        "CREATE TABLE mine (id int)",
        "DROP TABLE notes",
        "TRUNCATE notes",
        "ALTER TABLE notes ADD COLUMN more int",
        "UPDATE schema_version SET version_num = 'x'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(place.service_url, forbidden)


def test_listed_grants_are_all_that_is_given_and_what_is_no_longer_listed_is_taken_back(
    make_package: MakePackage, place: ServiceDatabase
) -> None:
    migrate(make_package(FIRST, SECOND, grants='{"notes": "SELECT, INSERT, DELETE"}'), place)
    migrate(make_package(FIRST, SECOND, grants='{"notes": "SELECT, INSERT"}'), place)
    assert rows(place.service_url, "INSERT INTO notes (text) VALUES ('a') RETURNING text") == [("a",)]
    assert rows(place.service_url, "SELECT id FROM secrets") == []  # the migration granted this one itself
    for forbidden in ("UPDATE notes SET text = ''", "DELETE FROM notes", "SELECT position FROM log_head"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(place.service_url, forbidden)


def test_starters_that_race_migrate_once(make_package: MakePackage, place: ServiceDatabase) -> None:
    package = make_package(FIRST, SECOND)
    with ThreadPoolExecutor(4) as threads:
        for outcome in [threads.submit(migrate, package, place) for _ in range(4)]:
            outcome.result()
    assert rows(place.service_url, "SELECT count(*) FROM notes") == [(1,)]


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    make_package: MakePackage, place: ServiceDatabase
) -> None:
    migrate(make_package(FIRST), place)
    with pytest.raises(Exception, match="division by zero"):
        migrate(make_package(FIRST, FAILING), place)
    assert rows(place.owner_url, "SELECT to_regclass('half_made')::text") == [(None,)]
    assert rows(place.owner_url, "SELECT version_num FROM schema_version") == [("0001",)]
    migrate(make_package(FIRST, SECOND), place)


def test_a_database_of_a_newer_release_is_refused_and_left_alone(
    make_package: MakePackage, place: ServiceDatabase
) -> None:
    migrate(make_package(FIRST, SECOND), place)
    with pytest.raises(MigrationError, match=r"0002.*newer"):
        migrate(make_package(FIRST), place)
    assert rows(place.owner_url, "SELECT version_num FROM schema_version") == [("0002",)]


def test_a_package_without_migrations_is_named() -> None:
    with pytest.raises(MigrationError, match="svc_kit has no migrations"):
        run_migrations("svc_kit", "postgresql://nobody@/none")


def test_the_command_takes_owner_and_service_role_from_the_environment(
    make_package: MakePackage, place: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(FIRST)
    prefix = f"INTERLOCK_{package.removesuffix('_svc').upper()}_"
    monkeypatch.setenv(f"{prefix}OWNER_DATABASE_URL", place.owner_url)
    monkeypatch.setenv(f"{prefix}DATABASE_URL", place.service_url)
    migrate_main(package)
    assert rows(place.service_url, "SELECT count(*) FROM notes") == [(0,)]


def test_the_command_without_a_url_or_a_server_ends_with_a_sentence(
    make_package: MakePackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(FIRST)
    prefix = f"INTERLOCK_{package.removesuffix('_svc').upper()}_"
    with pytest.raises(SystemExit, match=f"set {prefix}OWNER_DATABASE_URL"):
        migrate_main(package)
    monkeypatch.setenv(f"{prefix}DATABASE_URL", "postgresql://nobody@/none?host=/nowhere")
    with pytest.raises(SystemExit, match=r"migrate: .*/nowhere"):
        migrate_main(package)
