"""What every test may ask for."""

import os

import pytest
from hypothesis import settings

from tests.suite_fixtures import postgres_server, valkey_server
from tests.suite_running import running_suite

pytest_plugins = ["tests.hangs"]

__all__ = ["postgres_server", "running_suite", "valkey_server"]


# --hypothesis-profile long: twenty times as many examples.
settings.register_profile("long", max_examples=2000, deadline=None)


def pytest_configure() -> None:
    """Suites of this process look for ports where those of another do not.

    Those of a suite that was killed must still be free when it starts again. Below the ports that the system
    gives to outgoing connections.
    """
    os.environ["INTERLOCK_PORTS_FROM"] = str(10_000 + os.getpid() % 220 * 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The long forms of tests."""
    parser.addoption(
        "--chaos",
        type=int,
        nargs="?",
        const=10_000,
        default=0,
        metavar="TASKS",
        help="only the long chaos run, over so many tasks (10,000)",
    )
    parser.addoption("--chaos-number", type=int, help="replay the chaos run that printed this number")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files run side by side, what shares a running suite together; with --chaos nothing else runs."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if config.getoption("--chaos"):
        chosen = [
            item
            for item in items
            if item.name == "test_nothing_is_lost_or_done_twice_over_faults_without_end"
        ]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def _group(item: pytest.Item) -> str:
    if "running_suite" in getattr(item, "fixturenames", ()):
        return "running_suite"
    # Those of the end-to-end tests have a suite of their own.
    return "e2e" if item.path.parent.name == "e2e" else item.path.name
