"""A sandbox and a world, shared by the tests of one module: both are made to be used many times."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from interlock_sandbox import Sandbox, SandboxUnavailable
from tests.sandbox.hosts import without_host
from tests.sandbox.world import World, children_of


@pytest.fixture(scope="module")
def bystanders() -> set[int]:
    """Children of this process that other tests have left running: servers that a whole session shares."""
    return children_of(os.getpid())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(bystanders: set[int]) -> AsyncIterator[Sandbox]:
    # `bystanders` goes first: what this fixture starts is none of them.
    running = Sandbox(spares=2)
    try:
        await running.start()
    except SandboxUnavailable as error:
        without_host(f"this host has no sandbox: {error}")
    yield running
    await running.close()


@pytest.fixture(scope="module")
def world(bystanders: set[int]) -> Iterator[World]:
    with World() as host:
        yield host
