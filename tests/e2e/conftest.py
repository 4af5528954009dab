"""One suite for the whole folder: what a test breaks has to mend itself, and the next test finds out."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from interlock.client import Client
from tests.e2e.catalogue import publish
from tests.e2e.observing import people, settled
from tests.e2e.suite import RunningSuite
from tests.e2e.works import WORKS


@pytest.fixture(scope="session")
def suite() -> Iterator[RunningSuite]:
    """A running suite that knows the works of the tests."""
    # Not pytest's own temporary folder: a unix socket's path may hold 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    # Longer than any restart takes on a machine that is busy with other things.
    suite = RunningSuite(folder / "a", INTERLOCK_ORCHESTRATOR_LEASE_SECONDS="30")
    try:
        suite.start()
        asyncio.run(publish(suite, WORKS))
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
