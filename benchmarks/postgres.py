"""A PostgreSQL of its own for a set of measurements, with nothing else in it."""

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from interlock_suite.databases import RolePasswords, ServiceDatabase, provision
from interlock_suite.postgres import EmbeddedPostgres, PostgresPlace
from svc_kit.migrations import run_migrations

_READY_SECONDS = 60.0


@asynccontextmanager
async def running_postgres() -> AsyncIterator[str]:
    """The administrator's URL; server and data are gone after the block."""
    folder = Path(tempfile.mkdtemp(prefix="il-bench-"))
    place = PostgresPlace(
        data=folder / "data", socket=folder / "s", password_file=folder / "password", log=folder / "log"
    )
    server = EmbeddedPostgres.prepare(place)
    command = server.command()
    process = command.spawn()
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while not server.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start; see {place.log}")
            await asyncio.sleep(0.05)
        yield server.url
    finally:
        process.send_signal(command.stop_signal)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def migrated(admin_url: str, service: str) -> ServiceDatabase:
    """A new database with the tables of a service."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    passwords = RolePasswords(owner=uuid.uuid4().hex, service=uuid.uuid4().hex)
    made = await asyncio.to_thread(provision, admin_url, service=service, database=name, passwords=passwords)
    await asyncio.to_thread(run_migrations, f"{service}_svc", made.owner_url, grants_to=made.service_role)
    return made
