"""What every test may ask for."""

from tests.suite_fixtures import postgres_server, valkey_server

__all__ = ["postgres_server", "valkey_server"]
