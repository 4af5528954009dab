"""What only the server's administrator can add to the audit database: a guard of its schema, and readers.

The guard refuses whatever would take a table, a month or a trigger away, also to their owner, unless the
session says that it is a migration: `interlock.change_schema` is on, which migrations set, and the function
that makes months. It keeps slips away, not somebody who means it: for that there are the signed checkpoints.

A suite does this by itself. Whoever runs the services without one: `python -m interlock_suite.audit_guard`,
with the administrator's URL in INTERLOCK_DATABASE_URL and the service's in INTERLOCK_AUDIT_DATABASE_URL.
"""

import os
import sys

import psycopg
from psycopg import sql

from interlock_suite.databases import with_database
from svc_kit.database import database_url

# Not contents, and not who stands behind a pseudonym: the service hands these out, and records it.
_READABLE = ("log", "log_head", "entry", "removed_part", "removed_entry", "tile", "checkpoint")
_COMMANDS = (
    "ALTER TABLE",
    "DROP TABLE",
    "CREATE TRIGGER",
    "ALTER TRIGGER",
    "DROP TRIGGER",
    "CREATE FUNCTION",
    "ALTER FUNCTION",
    "DROP FUNCTION",
    "CREATE RULE",
    "ALTER RULE",
    "DROP RULE",
    "CREATE POLICY",
    "ALTER POLICY",
    "DROP POLICY",
    "ALTER SCHEMA",
    "DROP SCHEMA",
    "DROP OWNED",
)
# In a schema of its own, for in `public` the owner of the database could replace it.
_GUARD = """
CREATE OR REPLACE FUNCTION interlock_guard.refuse_change() RETURNS event_trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(current_setting('interlock.change_schema', true), '') <> 'on' THEN
        RAISE EXCEPTION '% is refused: the schema of the audit log changes in migrations alone', TG_TAG
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$
"""


def guard_audit(admin_url: str, *, database: str, service_role: str) -> bool:
    """Put the guard in place and make the readers' role; False where the administrator may not.

    Only a superuser makes event triggers. Run again it changes nothing.
    """
    with psycopg.connect(with_database(admin_url, database)) as connection:
        if connection.info.parameter_status("is_superuser") != "on":
            return False
        # This session changes the schema itself, also when the guard stands already.
        connection.execute("SET LOCAL interlock.change_schema = 'on'")
        connection.execute("CREATE SCHEMA IF NOT EXISTS interlock_guard")
        connection.execute(_GUARD)
        connection.execute("DROP EVENT TRIGGER IF EXISTS audit_schema")
        connection.execute(
            sql.SQL(
                "CREATE EVENT TRIGGER audit_schema ON ddl_command_start WHEN TAG IN ({})"
                " EXECUTE FUNCTION interlock_guard.refuse_change()"
            ).format(sql.SQL(", ").join(map(sql.Literal, _COMMANDS)))
        )
        connection.execute("ALTER EVENT TRIGGER audit_schema ENABLE ALWAYS")
        _make_readers(connection, database, f"{service_role}_reader")
    return True


def _make_readers(connection: psycopg.Connection, database: str, name: str) -> None:
    readers = sql.Identifier(name)
    if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchall():
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(readers))
    granted = sql.SQL(", ").join(map(sql.Identifier, _READABLE))
    for statement in (
        sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(database), readers),
        sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(readers),
        sql.SQL("GRANT SELECT ON {} TO {}").format(granted, readers),
    ):
        connection.execute(statement)


def main() -> None:
    """Guard the database of the audit service that the environment names; exits with 1 where it cannot."""
    admin = os.environ.get("INTERLOCK_DATABASE_URL", "")
    service = os.environ.get("INTERLOCK_AUDIT_DATABASE_URL", "")
    if not admin or not service:
        sys.exit("audit_guard: set INTERLOCK_DATABASE_URL and INTERLOCK_AUDIT_DATABASE_URL")
    try:
        named = database_url(service)
        if not named.database or not named.username:
            sys.exit(
                "audit_guard: INTERLOCK_AUDIT_DATABASE_URL must name the database and the service's role"
            )
        guarded = guard_audit(admin, database=named.database, service_role=named.username)
    except (psycopg.Error, ValueError) as error:
        sys.exit(f"audit_guard: {error}")
    if not guarded:
        sys.exit("audit_guard: only a superuser can make event triggers; INTERLOCK_DATABASE_URL names none")


if __name__ == "__main__":
    main()
