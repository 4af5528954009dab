"""The two stores below the services: embedded and supervised, or external and only checked."""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import psycopg
import redis

from interlock_suite import schema_mark
from interlock_suite.audit_guard import guard_audit
from interlock_suite.databases import RolePasswords, ServiceDatabase, provision
from interlock_suite.errors import SuiteError
from interlock_suite.folder import DataFolder
from interlock_suite.options import Options
from interlock_suite.passwords import password
from interlock_suite.postgres import EmbeddedPostgres, PostgresPlace, refuse_without_durability
from interlock_suite.process import Patience, Process
from interlock_suite.stale import mend_child, mend_postgres
from interlock_suite.valkey import EmbeddedValkey, ValkeyPlace

_PATIENCE = Patience(start=60.0, stop=20.0)


class Servers:
    """PostgreSQL and Valkey of one suite."""

    def __init__(self, options: Options, folder: DataFolder) -> None:
        self._options = options
        self._folder = folder
        self._admin_url = options.database_url or ""
        self.redis_url = options.redis_url or ""

    def prepare(self) -> list[Process]:
        """Lay out what is embedded (blocks); the processes to start, PostgreSQL first."""
        processes = []
        if not self._options.database_url:
            processes.append(self._embed_postgres())
        if not self._options.redis_url:
            processes.append(self._embed_valkey())
        return processes

    def provision(self, services: Iterable[str]) -> Mapping[str, ServiceDatabase]:
        """Check that the servers can be relied on, and make each service's database and roles (blocks)."""
        with _explained("PostgreSQL"):
            refuse_without_durability(self._admin_url)
            databases = {service: self._provision(service) for service in services}
        if self._options.redis_url:
            with _explained("Redis"), contextlib.closing(redis.Redis.from_url(self.redis_url)) as client:
                client.ping()
        return databases

    def unmigrated(
        self, databases: Mapping[str, ServiceDatabase], packages: Mapping[str, str]
    ) -> Sequence[str]:
        """The services whose database must be migrated before they start (blocks)."""
        with _explained("PostgreSQL"):
            return schema_mark.unmigrated(self._admin_url, databases, packages)

    def remember_migrated(self, migrated: Iterable[tuple[ServiceDatabase, str]]) -> None:
        """The named packages' migrations ran on these databases (blocks)."""
        with _explained("PostgreSQL"):
            schema_mark.remember(self._admin_url, migrated)

    def guard_audit(self, database: ServiceDatabase) -> bool:
        """Add to the audit database what its owner cannot (blocks); False where the account cannot."""
        with _explained("PostgreSQL"):
            return guard_audit(self._admin_url, database=database.name, service_role=database.service_role)

    def _provision(self, service: str) -> ServiceDatabase:
        folder = self._folder.keys / "postgres"
        passwords = RolePasswords(
            owner=password(folder / f"{service}_owner.password"),
            service=password(folder / f"{service}.password"),
        )
        return provision(
            self._admin_url,
            service=service,
            database=f"interlock_{service}",
            passwords=passwords,
            # The embedded server is nobody else's; on an external one another suite's roles are left alone.
            keeper=self._folder.recall().suite_id if self._options.database_url else None,
        )

    def _embed_postgres(self) -> Process:
        folder = self._folder
        place = PostgresPlace(
            data=folder.postgres,
            socket=folder.run / "pg",
            password_file=folder.keys / "postgres" / "superuser.password",
            log=folder.log("postgres"),
        )
        server = EmbeddedPostgres.prepare(place, before_nobody=folder.let_others_pass)
        self._admin_url = server.url
        return Process(
            "postgres",
            server.command,
            lambda: asyncio.to_thread(server.ready),
            mend=lambda: mend_postgres(place.data, place.socket),
            patience=_PATIENCE,
        )

    def _embed_valkey(self) -> Process:
        folder = self._folder
        place = ValkeyPlace(
            data=folder.valkey,
            socket=folder.socket("valkey"),
            password_file=folder.keys / "valkey" / "password",
            log=folder.log("valkey"),
        )
        server = EmbeddedValkey.prepare(place)
        self.redis_url = server.url
        return Process(
            "valkey",
            lambda: server.command().marked(folder.mark, "valkey"),
            lambda: asyncio.to_thread(server.ready),
            mend=lambda: mend_child(folder, "valkey"),
            remedy=server.set_damage_aside,
            patience=_PATIENCE,
        )


@contextlib.contextmanager
def _explained(server: str) -> Iterator[None]:
    """Turn what a driver says about a server that cannot be used into a sentence for people."""
    try:
        yield
    except (psycopg.Error, redis.RedisError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SuiteError(
            f"{server} cannot be used: {lines[0]}",
            "Check its address, and that the account may create databases and roles."
            if server == "PostgreSQL"
            else "Check --redis-url.",
        ) from error
