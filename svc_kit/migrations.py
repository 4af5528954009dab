"""Schema migrations: Alembic scripts of one service, run by its owner role.

A service keeps only `<package>/migrations/versions/*.py`; there is no env.py. What its service role may do
stands in `<package>/migrations/__init__.py`:

    GRANTS = {"entries": "SELECT, INSERT", "heads": "SELECT, INSERT, UPDATE"}

Without GRANTS the role gets SELECT, INSERT, UPDATE and DELETE on every table. With it, exactly that on the
tables it lists; a migration that grants on others by itself asks `service_role()`.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa
from alembic import context, op
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep, RevisionStep
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.pool import NullPool

from svc_kit.advisory import lock_key
from svc_kit.database import database_url

VERSION_TABLE = "schema_version"
_EVERYTHING = "SELECT, INSERT, UPDATE, DELETE"
_LOCK = lock_key("interlock.migrations")


class MigrationError(Exception):
    """The schema cannot be brought to what this release needs; the message says why and what to do."""


def without_samples(columns: Mapping[str, Sequence[str]]) -> None:
    """In a migration: have the planner take no samples of these columns, by table, nor of their partitions.

    Its statistics hold values of rows, and outlive them: what can be erased must not get there.
    """
    for table, names in columns.items():
        changes = ", ".join(f"ALTER COLUMN {name} SET STATISTICS 0" for name in names)
        op.execute(f"ALTER TABLE {table} {changes}")


def run_migrations(package: str, url: str, *, grants_to: str | None = None) -> None:
    """Bring the database at `url` (owner role) to the newest version, then grant the service role its rights.

    Blocks; may be run by any number of starters at once (one works, the others find nothing left to do). All
    steps of one run commit together. A database that a newer release migrated raises MigrationError and is
    left alone.
    """
    config = _config(package, grants_to)
    engine = sa.create_engine(database_url(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            # A session lock, freed with the connection: it must outlast the transactions of the steps.
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
            # A schema may be guarded against everybody who does not say that this is a migration.
            connection.execute(sa.text("SELECT set_config('interlock.change_schema', 'on', false)"))
            connection.commit()
            _upgrade(connection, config)
            if grants_to is not None:
                _grant(connection, package, grants_to)
            connection.commit()
    finally:
        engine.dispose()


def pending(package: str, url: str) -> bool:
    """Whether the database at `url` lacks a migration of this release."""
    scripts = ScriptDirectory.from_config(_config(package, None))
    engine = sa.create_engine(database_url(url), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            return _current(connection) != set(scripts.get_heads())
    finally:
        engine.dispose()


def service_role() -> str | None:
    """Within a migration: the role the service runs as, or None when owner and service are one."""
    role: str | None = context.config.attributes["service_role"]
    return role


def migrate_main(package: str) -> None:
    """`python -m <package> migrate`: settings come from the environment, problems end with exit code 1.

    INTERLOCK_<SERVICE>_OWNER_DATABASE_URL names the owner; the role granted to is the user of
    INTERLOCK_<SERVICE>_DATABASE_URL. Where only the latter is set, one role is both.
    """
    prefix = f"INTERLOCK_{package.removesuffix('_svc').upper()}_"
    service_url = os.environ.get(f"{prefix}DATABASE_URL", "")
    owner_url = os.environ.get(f"{prefix}OWNER_DATABASE_URL", "") or service_url
    if not owner_url:
        sys.exit(f"migrate: set {prefix}OWNER_DATABASE_URL or {prefix}DATABASE_URL")
    try:
        role = database_url(service_url).username if service_url else None
        owner = database_url(owner_url).username
        run_migrations(package, owner_url, grants_to=role if role != owner else None)
    except (MigrationError, ValueError, sa.exc.SQLAlchemyError) as error:
        sys.exit(f"migrate: {error}")


def _config(package: str, role: str | None) -> Config:
    config = Config(attributes={"service_role": role})
    # Alembic reads % as the start of a placeholder.
    config.set_main_option("script_location", str(_migrations_folder(package)).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _migrations_folder(package: str) -> Path:
    origin = importlib.import_module(package).__file__
    if origin is None:
        raise MigrationError(f"{package} has no __init__.py")
    folder = Path(origin).parent / "migrations"
    if not (folder / "versions").is_dir():
        raise MigrationError(f"{package} has no migrations/versions folder")
    return folder


def _current(connection: sa.Connection) -> set[str]:
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return set(found.get_current_heads())


def _upgrade(connection: sa.Connection, config: Config) -> None:
    scripts = ScriptDirectory.from_config(config)
    for version in _current(connection):
        try:
            scripts.get_revision(version)
        except CommandError:
            raise MigrationError(
                f"the database has schema version {version}, which this release does not know:"
                " it was migrated by a newer one; install that release or restore a backup from before"
            ) from None
    connection.rollback()

    def steps(revision: str, _: MigrationContext) -> list[RevisionStep]:
        missing = list(scripts.iterate_revisions("heads", revision, implicit_base=True))
        return [
            MigrationStep.upgrade_from_script(scripts.revision_map, script) for script in reversed(missing)
        ]

    with EnvironmentContext(config, scripts, fn=steps) as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        with environment.begin_transaction():
            environment.run_migrations()


def _grant(connection: sa.Connection, package: str, role: str) -> None:
    quote = connection.dialect.identifier_preparer.quote_identifier
    database = connection.execute(sa.text("SELECT current_database()")).scalar_one()
    statements = [
        f"GRANT CONNECT ON DATABASE {quote(database)} TO {quote(role)}",
        f"GRANT USAGE ON SCHEMA public TO {quote(role)}",
    ]
    for table, privileges in _grants(connection, package).items():
        # Whatever an earlier release allowed on this table and this one does not is gone.
        statements.append(f"REVOKE ALL ON TABLE {quote(table)} FROM {quote(role)}")
        statements.append(f"GRANT {privileges} ON TABLE {quote(table)} TO {quote(role)}")
    statements.append(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {quote(role)}")
    statements.append(f"GRANT SELECT ON TABLE {quote(VERSION_TABLE)} TO {quote(role)}")
    for statement in statements:
        connection.execute(sa.text(statement))


def _grants(connection: sa.Connection, package: str) -> Mapping[str, str]:
    try:
        module = importlib.import_module(f"{package}.migrations")
    except ModuleNotFoundError:
        module = None
    listed: Mapping[str, str] | None = getattr(module, "GRANTS", None)
    if listed is not None:
        return listed
    tables = sa.inspect(connection).get_table_names()
    return {table: _EVERYTHING for table in tables if table != VERSION_TABLE}
