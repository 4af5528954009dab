"""The running suite with the works of these tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from interlock.client import Client
from tests.acceptance.works import WORKS
from tests.e2e.catalogue import publish
from tests.e2e.observing import people, settled
from tests.suite_running import Suite


@pytest.fixture(scope="session")
def suite(running_suite: Suite) -> Suite:
    """The suite that all tests share, knowing the works."""
    asyncio.run(publish(running_suite, WORKS))
    return running_suite


@pytest.fixture
async def client(suite: Suite) -> AsyncIterator[Client]:
    """A client of somebody who may do and read everything; the suite is whole before and after the test."""
    await settled(suite)
    async with people(suite) as client:
        yield client
        await settled(suite)
