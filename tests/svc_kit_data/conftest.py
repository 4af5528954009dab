"""A database of its own for every test here."""

from collections.abc import AsyncIterator

import pytest

from svc_kit.database import Database
from tests.suite_fixtures import PostgresServer, ServiceDatabase


@pytest.fixture
def place(postgres_server: PostgresServer) -> ServiceDatabase:
    return postgres_server.make_database("kit")


@pytest.fixture
def url(place: ServiceDatabase) -> str:
    """An empty database, as its owner."""
    return place.owner_url


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    yield database
    await database.close()
