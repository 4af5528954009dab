"""Databases and roles, also on a server that is not ours alone."""

from itertools import count

import psycopg
import pytest

from interlock_suite import schema_mark
from interlock_suite.databases import RolePasswords, ServiceDatabase, provision, with_login
from interlock_suite.errors import SuiteError
from tests.suite_fixtures import PostgresServer

_NUMBERS = count()
_PASSWORDS = RolePasswords(owner="o", service="s")


@pytest.fixture
def service() -> str:
    """A name that no other test uses: roles belong to the whole server."""
    return f"svc{next(_NUMBERS)}"


@pytest.fixture
def small_admin(postgres_server: PostgresServer) -> str:
    """An administrator that may create databases and roles, and is no superuser."""
    name = f"admin{next(_NUMBERS)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN CREATEDB CREATEROLE PASSWORD 'a'")
    return with_login(postgres_server.url, user=name, password="a", database="postgres")


def _make(admin_url: str, service: str, **more: str) -> ServiceDatabase:
    return provision(admin_url, service=service, database=f"db_{service}", passwords=_PASSWORDS, **more)


def test_an_administrator_who_is_no_superuser_is_enough(small_admin: str, service: str) -> None:
    first = _make(small_admin, service, keeper="one")
    with psycopg.connect(first.owner_url) as owner:
        owner.execute("CREATE TABLE kept (id int)")
    assert _make(small_admin, service, keeper="one") == first
    with psycopg.connect(first.owner_url) as owner:
        owner.execute("INSERT INTO kept VALUES (1)")
    schema_mark.remember(small_admin, [(first, "audit_svc")])


def test_a_changed_password_holds_from_the_next_start_on(
    postgres_server: PostgresServer, service: str
) -> None:
    _make(postgres_server.url, service)
    changed = provision(
        postgres_server.url,
        service=service,
        database=f"db_{service}",
        passwords=RolePasswords(owner="other", service="s"),
    )
    with psycopg.connect(changed.owner_url):
        pass


def test_the_roles_of_another_suite_are_left_alone(postgres_server: PostgresServer, service: str) -> None:
    first = _make(postgres_server.url, service, keeper="one")
    with pytest.raises(SuiteError, match="belongs to somebody else"):
        provision(
            postgres_server.url,
            service=service,
            database=f"other_{service}",
            passwords=RolePasswords(owner="x", service="x"),
            keeper="two",
        )
    with psycopg.connect(first.owner_url):
        pass


def test_a_database_tells_which_migrations_it_has_seen(postgres_server: PostgresServer, service: str) -> None:
    made = _make(postgres_server.url, service)
    databases, packages = {service: made}, {service: "audit_svc"}
    assert schema_mark.unmigrated(postgres_server.url, databases, packages) == [service]
    schema_mark.remember(postgres_server.url, [(made, "audit_svc")])
    assert schema_mark.unmigrated(postgres_server.url, databases, packages) == []
    assert schema_mark.unmigrated(postgres_server.url, databases, {service: "registry_svc"}) == [service]
