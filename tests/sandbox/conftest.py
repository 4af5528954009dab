"""A sandbox and a world, shared by the tests of one module: both are made to be used many times."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from interlock_sandbox import Sandbox, SandboxUnavailable
from tests.sandbox.hosts import without_host
from tests.sandbox.world import World


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    running = Sandbox(spares=2)
    try:
        await running.start()
    except SandboxUnavailable as error:
        without_host(f"this host has no sandbox: {error}")
    yield running
    await running.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as host:
        yield host
