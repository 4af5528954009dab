"""The databases of the services and their two roles each: one that owns, one that serves."""

from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from interlock_suite.errors import SuiteError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDatabase:
    """One service's database, as its two roles reach it."""

    name: str
    owner_role: str
    service_role: str
    owner_url: str
    """May change tables; for migrations alone."""
    service_url: str
    """May read and write rows as far as the migrations grant it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePasswords:
    """The passwords of one service's two roles."""

    owner: str
    service: str


def provision(
    admin_url: str, *, service: str, database: str, passwords: RolePasswords, keeper: str | None = None
) -> ServiceDatabase:
    """Make the database and roles where they are missing; run again it changes nothing but the passwords.

    With a `keeper` roles that another keeper made are refused (SuiteError) instead of taken over.
    """
    owner, server = f"{service}_owner", service
    with psycopg.connect(admin_url, autocommit=True) as connection:
        _ensure_role(connection, owner, passwords.owner, keeper)
        _ensure_role(connection, server, passwords.service, keeper)
        _ensure_database(connection, database, owner)
    made = ServiceDatabase(
        name=database,
        owner_role=owner,
        service_role=server,
        owner_url=with_login(admin_url, user=owner, password=passwords.owner, database=database),
        service_url=with_login(admin_url, user=server, password=passwords.service, database=database),
    )
    with psycopg.connect(with_database(admin_url, database), autocommit=True) as connection:
        _close_to_others(connection, made)
    return made


def with_login(url: str, *, user: str, password: str, database: str) -> str:
    """The same server's URL for another user and database."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    netloc = f"{quote(user, safe='')}:{quote(password, safe='')}@{address}"
    return _unsplit(parts.scheme, netloc, database, parts.query)


def with_database(url: str, database: str) -> str:
    """The same server's URL for the same user and another database."""
    parts = urlsplit(url)
    return _unsplit(parts.scheme, parts.netloc, database, parts.query)


def _unsplit(scheme: str, netloc: str, database: str, query: str) -> str:
    return urlunsplit((scheme, netloc, f"/{quote(database, safe='')}", query, ""))


def _ensure_role(connection: psycopg.Connection, role: str, password: str, keeper: str | None) -> None:
    # Hashed here, so that the server's log can never hold the password.
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    found = connection.execute(
        "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %s", [role]
    ).fetchone()
    if found is not None and keeper is not None and found[0] != _kept_by(keeper):
        raise SuiteError(
            f"The role {role} exists already on this PostgreSQL and belongs to somebody else.",
            "Give each suite a PostgreSQL of its own, or remove the roles of one that is gone.",
        )
    verb = sql.SQL("CREATE" if found is None else "ALTER")
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(role), sql.Literal(hashed))
    )
    if keeper is not None:
        connection.execute(
            sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(role), sql.Literal(_kept_by(keeper)))
        )


def _kept_by(keeper: str) -> str:
    return f"of the Interlock suite {keeper}"


def _ensure_database(connection: psycopg.Connection, database: str, owner: str) -> None:
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
        return
    # An administrator who is no superuser may only give away what it could take: it joins the owner first.
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(owner)))
    connection.execute(
        sql.SQL("CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0").format(
            sql.Identifier(database), sql.Identifier(owner)
        )
    )


def _close_to_others(connection: psycopg.Connection, made: ServiceDatabase) -> None:
    database, owner, server = (sql.Identifier(n) for n in (made.name, made.owner_role, made.service_role))
    for statement in (
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, server),
        sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC"),
        sql.SQL("GRANT USAGE, CREATE ON SCHEMA public TO {}").format(owner),
        sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(server),
    ):
        connection.execute(statement)
