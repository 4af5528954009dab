"""A PostgreSQL that crashes."""

import time
from pathlib import Path

from tests.suite_fixtures import PostgresServer

_SECONDS = 30.0


def crash(server: PostgresServer) -> None:
    """kill -9 of the postmaster; returns when its backends are gone: no new one starts before."""
    backends = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    server.kill()
    deadline = time.monotonic() + _SECONDS
    while any(Path("/proc", backend).exists() for backend in backends):
        assert time.monotonic() < deadline, "backends outlived their postmaster"
        time.sleep(0.01)
