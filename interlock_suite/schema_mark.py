"""Remembers in each database which migrations it has seen, so that a warm start need not load the tools."""

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from interlock_suite.databases import ServiceDatabase, with_database

# Its own code counts too: it decides what is granted.
_RUNNER = "svc_kit.migrations"


def fingerprint(package: str) -> str:
    """Of all that decides how the database of `package` looks after its migrations."""
    digest = hashlib.sha256(_source(_RUNNER).read_bytes())
    folder = _source(package).parent / "migrations"
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"\0{path.relative_to(folder)}\0".encode())
        digest.update(path.read_bytes())
    return f"migrated {digest.hexdigest()}"


def unmigrated(
    admin_url: str, databases: Mapping[str, ServiceDatabase], packages: Mapping[str, str]
) -> list[str]:
    """The services of `packages` (service → package) whose database has not seen exactly these migrations."""
    with psycopg.connect(admin_url) as connection:
        return [
            service
            for service, package in packages.items()
            if _comment(connection, databases[service].name) != fingerprint(package)
        ]


def remember(admin_url: str, databases: Iterable[tuple[ServiceDatabase, str]]) -> None:
    """Write each package's fingerprint to its database, after its migrations ran."""
    for database, package in databases:
        with psycopg.connect(with_database(admin_url, database.name), autocommit=True) as connection:
            connection.execute(
                sql.SQL("COMMENT ON DATABASE {} IS {}").format(
                    sql.Identifier(database.name), sql.Literal(fingerprint(package))
                )
            )


def _comment(connection: psycopg.Connection, database: str) -> str | None:
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    return None if row is None else row[0]


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{module} is not installed")
    return Path(spec.origin)
