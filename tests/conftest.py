"""What every test may ask for."""

from tests.suite_fixtures import postgres_server, valkey_server
from tests.suite_running import running_suite

__all__ = ["postgres_server", "running_suite", "valkey_server"]
