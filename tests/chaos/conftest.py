"""One suite with two orchestrators and two workers, for what strikes at random or moves between them."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from interlock.client import Client
from tests.chaos.load import publish_load
from tests.e2e.observing import people, settled
from tests.e2e.suite import RunningSuite


@pytest.fixture(scope="session")
def suite() -> Iterator[RunningSuite]:
    """A running suite that knows the works of the load."""
    # Not pytest's own temporary folder: a unix socket's path may hold 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    suite = RunningSuite(
        folder / "a",
        "--orchestrators=2",
        "--workers=2",
        # Processes that hang for long lose their leases, those that a busy machine lets wait do not.
        INTERLOCK_ORCHESTRATOR_LEASE_SECONDS="6",
        # And workers give back what does not end at once.
        INTERLOCK_WORKER_DRAIN_SECONDS="1",
    )
    try:
        suite.start()
        asyncio.run(publish_load(suite))
        yield suite
        suite.stop()
        assert suite.unexpected() == []
    finally:
        suite.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def client(suite: RunningSuite) -> AsyncIterator[Client]:
    """A client of somebody who may do and read everything; the suite is whole before and after the test."""
    await settled(suite)
    async with people(suite) as client:
        yield client
        await settled(suite)
