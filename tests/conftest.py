"""What every test may ask for."""

import os
import signal
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests.suite_fixtures import postgres_server, valkey_server
from tests.suite_running import running_suite

# What the tests of these folders run on.
_SHARED_SUITES = {"acceptance": "running_suite", "demo": "running_suite", "e2e": "suite of e2e"}

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
    # A shell that starts us in the background has us ignore Ctrl-C, and what we start would do so too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_LONG = {
    "--chaos": "test_nothing_is_lost_or_done_twice_over_faults_without_end",
    "--kills": "test_nothing_acknowledged_is_lost_or_stands_twice_over_kills_of_everything",
}


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
    parser.addoption(
        "--kills",
        type=int,
        nargs="?",
        const=200,
        default=0,
        metavar="ROUNDS",
        help="only the long run of kills under the audit log, so many of them (200)",
    )
    parser.addoption("--model", action="store_true", help="only the tests with a real language model")
    parser.addoption("--chaos-number", type=int, help="replay the chaos run that printed this number")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --chaos nothing else runs; with --model that which is marked so, which else does not."""
    marked = [item for item in items if item.get_closest_marker("model") is not None]
    if config.getoption("--model"):
        config.hook.pytest_deselected(items=[item for item in items if item not in marked])
        items[:] = marked
    for item in [] if config.getoption("--model") else marked:
        item.add_marker(pytest.mark.skip(reason="./dev test --model asks a real language model"))
    long = [name for option, name in _LONG.items() if config.getoption(option)]
    if long:
        chosen = [item for item in items if item.name in long]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """How tests are spread over processes."""
    return _Sharing(config, log)


class _Sharing(LoadFileScheduling):  # type: ignore[misc]  # it comes without types
    """A file at a time, and those that share a running suite in one process, so that it starts once."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        return _SHARED_SUITES.get(folder) or str(super()._split_scope(nodeid))
