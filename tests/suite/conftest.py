"""Suites that are gone after the test."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.suite.harness import SuiteProcess
from tests.suite_fixtures import PostgresServer, ValkeyServer

StartSuite = Callable[..., SuiteProcess]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short path, so that sockets fit into it."""
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start_suite(scratch: Path) -> Iterator[StartSuite]:
    """Start a suite on a data folder of that name in the scratch folder."""
    started = []

    def start(name: str = "a", *settings: str, **more: Any) -> SuiteProcess:
        suite = SuiteProcess(scratch / name, *settings, **more)
        started.append(suite)
        return suite

    yield start
    for suite in started:
        suite.end()


@pytest.fixture(scope="module")
def suite() -> Iterator[SuiteProcess]:
    """One running suite for tests that leave it as it is."""
    folder = Path(tempfile.mkdtemp(prefix="il-"))
    suite = SuiteProcess(folder / "a")
    try:
        yield suite.ready()
        assert suite.stop() == 0
    finally:
        suite.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def external_servers(postgres_server: PostgresServer, valkey_server: ValkeyServer) -> tuple[str, str]:
    """The URLs of a PostgreSQL and a Valkey that no suite started."""
    return postgres_server.url, valkey_server.url
