"""Agents and tools of the tests on the running suite."""

from pathlib import Path

import pytest

from tests.suite_running import Suite

WORKBENCH = Path(__file__).with_name("workbench.toml")
_ALLOWED = (
    ("bench-echo", "bench_echo"),
    ("bench-slow", "bench_slow"),
    ("bench-raise", "bench_raise"),
)


@pytest.fixture(scope="session")
def suite(running_suite: Suite) -> Suite:
    """The running suite with the workbench's agents published, and their tools allowed."""
    running_suite.json("agents", "publish", str(WORKBENCH))
    for agent, tool in _ALLOWED:
        running_suite.json("allow", agent, tool)
    return running_suite
